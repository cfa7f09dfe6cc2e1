"""Lower bounds: what no adversary can do. Certificates are proofs, or hold with a stated probability; estimates (CLEVER,
local Lipschitz constants) are neither, and every output of theirs says so."""
