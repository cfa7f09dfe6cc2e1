"""Why a model breaks: analyses over audits and attacks."""
