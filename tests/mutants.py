"""Faults to put into the code on purpose: each must make a test fail. `make mutants` tries them (tests/mutate.py).

A mutant is a file, a text that stands in it once, what takes its place, and the tests that should notice: files or single tests,
the fewer and faster the better.
"""

from __future__ import annotations

from typing import NamedTuple


class Mutant(NamedTuple):
    file: str  # in src/mohs
    text: str
    instead: str
    tests: str  # in tests, `test_x.py` or `test_x.py::test_y`


MUTANTS = [
    Mutant(
        "train/validation.py",
        "not bool(logits.isfinite().all()) or (",
        "(",
        "test_train.py::test_a_training_that_collapses_says_so",
    ),
    Mutant(
        "attacks/sparse/pointwise.py",
        "again = s.better & ~",
        "again = ~",
        "test_label_only.py",
    ),
    Mutant("attacks/sparse/pointwise.py", "tried=s.tried & ~again[:, None]", "tried=s.tried", "test_label_only.py"),
    Mutant(
        "attacks/blackbox/labels.py",
        "        self.skip(todo)\n",
        "",
        "test_label_only.py::test_pointwise_goes_on_from_what_is_known_and_leaves_alone_what_is_not",
    ),
    Mutant("attacks/settings.py", "and 0 < float(value) < math.inf", "and 0 < float(value)", "test_fixed_budget.py"),
    Mutant("attacks/settings.py", "field.name not in PERHAPS_NONE else 0", "False else 0", "test_fixed_budget.py"),
    Mutant("attacks/base.py", "if threat.epsilon == 0:", "if False:", "test_fixed_budget.py"),
    Mutant(
        "engine/profiles.py",
        'Step("sparse-rs", (SparseRS(queries=1000),)),\n',
        "",
        "test_profiles.py::test_l0_is_left_to_no_single_attack",
    ),
    Mutant("certificates/smoothing.py", 'stream.at("estimation")', 'stream.at("selection")', "test_smoothing.py"),
    Mutant(
        "certificates/smoothing.py",
        "bisect.bisect_left(range(MOST)",
        "1 + bisect.bisect_left(range(MOST)",
        "test_smoothing.py::test_what_is_said_to_be_enough_is_enough",
    ),
    Mutant("certificates/smoothing.py", "(block == k) & going[rows]", "block == k", "test_smoothing.py"),
    Mutant("certificates/confidence.py", "stats.beta.ppf(alpha,", "stats.beta.ppf(alpha / 2,", "test_smoothing.py"),
    Mutant("certificates/confidence.py", "np.log(part) - math.log(width)", "np.log(part)", "test_smoothing.py"),
    Mutant("certificates/sampling.py", "<= self.guide.slack)", "< 0)", "test_smoothing.py"),
    Mutant("certificates/radii.py", "(1 - p)) / math.sqrt(2)", "(1 - p))", "test_smoothing.py"),
    Mutant("defend/smooth.py", "binom.isf(alpha / 2,", "binom.isf(alpha,", "test_smoothing.py"),
    Mutant(
        "attacks/base.py",
        "goal = goal.facing(judge.model)",
        "pass",
        "test_apgd_fab.py::test_what_a_model_refuses_is_no_success_of_an_attack_called_directly",
    ),
    Mutant("certificates/clever.py", '"l1": math.inf}', '"l1": 1.0}', "test_clever.py"),
    Mutant("certificates/clever.py", "p >= LEAST_P", "p >= 0", "test_clever.py"),
    Mutant(
        "certificates/lipschitz.py",
        "float((f(torch.ones_like(x)) - zero).max())",
        "float(f(torch.ones_like(x)).max())",
        ("test_clever.py::test_the_bias_is_subtracted test_clever.py::test_the_norm_of_a_layer_is_that_of_its_operator"),
    ),
    Mutant(
        "certificates/lipschitz.py",
        "stride // math.gcd(stride, dilation)",
        "stride",
        "test_clever.py::test_a_value_is_in_so_many_windows_of_a_pool",
    ),
    Mutant(
        "certificates/lipschitz.py",
        "return self._copied(columns) if kind in _COPIES else columns",
        "return 1.0 if kind in _COPIES else columns",
        "test_clever.py::test_the_norm_of_a_layer_is_that_of_its_operator",
    ),
    Mutant(
        "certificates/lipschitz.py",
        "return self._copied(value.numel() / self.env[source].numel())",
        "return 1.0",
        "test_clever.py::test_the_norm_of_a_layer_is_that_of_its_operator",
    ),
    Mutant(
        "certificates/lipschitz.py",
        "if first and (kind in _WEIGHTED",
        "if (kind in _WEIGHTED",
        "test_clever.py::test_a_weight_that_moves_has_no_constant",
    ),
    Mutant("serve/blacklight.py", "self.matches(fingerprint) > self", "self.matches(fingerprint) >= self", "test_guard.py"),
    Mutant("serve/prada.py", "if distance > self.threshold:", "if distance >= 0:", "test_guard.py"),
    Mutant("serve/limits.py", "self.tokens = min(self.burst,", "self.tokens = max(self.burst,", "test_guard.py"),
    Mutant("serve/measure.py", ".numpy().copy())", ".numpy())", "test_guard.py"),
    Mutant("serve/server.py", "proxy_headers=False", "proxy_headers=True", "test_guard.py"),
    Mutant("serve/batching.py", "if self.waiting + rows > self.room:", "if False:", "test_serve.py"),
    Mutant("serve/batching.py", "if len(jobs) > 1:", "if False:", "test_serve.py::test_a_failing_model_spoils_no_other_answer"),
    Mutant("serve/app.py", "self._held -= held", "pass", "test_serve.py::test_the_bodies_held_are_bounded"),
    Mutant("serve/app.py", 'scheme.lower() != "bearer"', "False", "test_serve.py::test_a_token_is_wanted_and_never_told"),
    Mutant("serve/server.py", "answers.gives.k > model.classes", "False", "test_serve.py::test_bad_requests_say_what_to_do"),
    Mutant("serve/wire.py", 'not in "iuf"', 'not in "iufb"', "test_serve.py::test_bad_bodies_are_refused_in_plain_words"),
    Mutant(
        "attacks/spatial/wasserstein.py",
        "low, high = torch.where(dear, middle, low), torch.where(dear, high, middle)",
        "low, high = torch.where(dear, low, middle), torch.where(dear, middle, high)",
        (
            "test_wasserstein.py::test_attacks_gain_what_linear_programming_can "
            "test_wasserstein.py::test_the_best_plan_is_that_of_linear_programming"
        ),
    ),
    Mutant(
        "attacks/spatial/wasserstein.py",
        "plan + 2 / (t + 2) * (",
        "plan + 1 / (t + 2) * (",
        "test_wasserstein.py::test_attacks_gain_what_linear_programming_can",
    ),
    Mutant(
        "attacks/spatial/sinkhorn.py",
        "(psi + step).clamp(min=0)",
        "(psi - step).clamp(min=0)",
        "test_wasserstein.py::test_sinkhorn_solves_the_entropic_projection",
    ),
    Mutant(
        "attacks/spatial/sinkhorn.py",
        "regularisation * y + arriving",
        "regularisation * y - arriving",
        "test_wasserstein.py::test_sinkhorn_solves_the_entropic_projection",
    ),
    Mutant(
        "attacks/spatial/sinkhorn.py",
        "per_row(mass, kernel)).to",
        "1.01 * per_row(mass, kernel)).to",
        "test_wasserstein.py::test_sinkhorn_solves_the_entropic_projection",
    ),
    Mutant(
        "attacks/about.py",
        "if part.startswith(WHEN)",
        "if part.startswith(WHEN * 2)",
        "test_attack_docs.py::test_the_docstring_says_what_it_does_and_when_to_use_it",
    ),
    Mutant(
        "losses.py",
        "return functional.cross_entropy(logits, aim.y",
        "return -functional.cross_entropy(logits, aim.y",
        "test_conformance.py::test_successes_are_real[fgsm-linf:0.03]",
    ),
    Mutant(
        "threat/threat.py",
        "direction.mul_(per_row(size",
        "direction.mul_(-per_row(size",
        "test_conformance.py::test_successes_are_real[fgsm-linf:0.03]",
    ),
    Mutant(
        "oracle.py",
        "if len(hits.rows) and not self.roams:",
        "if False:",
        "test_oracle.py::test_points_outside_the_set_never_count",
    ),
    Mutant(
        "oracle.py",
        "near = near & inside",
        "near = near",
        (
            "test_oracle.py::test_points_outside_the_set_never_count "
            "test_oracle.py::test_what_lies_outside_is_not_the_closest_failure_of_an_attack_that_roams"
        ),
    ),
    Mutant(
        "oracle.py",
        "if level > granted and not",
        "if False and not",
        "test_oracle.py::test_what_is_not_granted_is_refused_by_both_names",
    ),
    Mutant(
        "oracle.py",
        "near = margin > -self.guide.slack",
        "near = margin > self.guide.slack + 1",
        "test_oracle.py::test_a_hit_the_guide_misses_by_less_than_its_slack_is_found",
    ),
    Mutant(
        "models/prepared.py",
        "reached = (margin > 0) & (goal.margin(exact, aim) > 0)",
        "reached = margin > 0",
        "test_oracle.py::test_a_success_must_hold_in_float64_too",
    ),
    Mutant(
        "models/prepared.py",
        "2 * hits >= trials",
        "hits >= 0",
        "test_oracle.py::test_a_hit_on_a_random_model_is_confirmed_on_fresh_draws",
    ),
    Mutant(
        "ledger.py",
        "good = (verdict.reached & (distance < self.distance[ids]))",
        "good = (verdict.reached)",
        "test_oracle.py::test_recalled_successes_are_judged_and_cost_nothing",
    ),
    Mutant(
        "ledger.py",
        "if failure is not None:",
        "if False:",
        "test_oracle.py::test_a_budget_closes_rows_as_undecided_with_exact_counts",
    ),
    Mutant(
        "models/batched.py",
        "missing = -len(x) % self.quantum",
        "missing = 0",
        "test_oracle.py::test_calls_are_padded_to_the_quantum_and_split_into_micro_batches",
    ),
    Mutant(
        "store/faults.py",
        "os.replace(temporary, path)",
        "path.write_bytes(data[: len(data) // 2])",
        "test_runs.py::test_every_fault_point_in_a_fork",
    ),
    Mutant(
        "engine/execute.py",
        'if stage.kind == "measure" else cases.open',
        'if stage.kind != "prove" else cases.open',
        "test_profiles.py::test_only_survivors_go_on",
    ),
    Mutant(
        "engine/execute.py",
        'np.isin(stored["ids"], ids)',
        'np.isin(stored["ids"], ids[:1])',
        "test_audit.py::test_a_stage_that_measures_starts_from_what_is_known",
    ),
    Mutant(
        "engine/executors.py", "ctypes.CDLL(None).prctl(", "print(", "test_executors.py::test_no_process_outlives_a_killed_run"
    ),
    Mutant("engine/executors.py", "process.kill()", "pass", "test_executors.py::test_stopping_ends_the_processes"),
    Mutant(
        "models/convolution.py",
        "torch.matmul(weight.flatten(1).t(),",
        "torch.matmul(-weight.flatten(1).t(),",
        "test_convolution.py::test_the_gradient_is_that_of_torch",
    ),
    Mutant(
        "models/convolution.py",
        "stride, padding, unseen)",
        "stride, padding)",
        "test_convolution.py::test_a_half_gradient_is_that_of_torch_to_bfloat16",
    ),
    Mutant(
        "models/inplace.py",
        "part in fresh and len(part.users) == 1",
        "part in fresh",
        "test_inplace.py::test_answers_are_the_same_to_the_bit",
    ),
    Mutant(
        "threat/constraints.py",
        "low = torch.where(fixed, x0,",
        "low = torch.where(~fixed, x0,",
        "test_threats.py::test_the_box_of_mask_limit_and_bounds",
    ),
    Mutant(
        "attacks/gradient/apgd.py",
        "eta[stalled] /= 2",
        "eta[stalled] /= 1",
        "test_apgd_fab.py::test_apgd_takes_the_steps_of_the_paper",
    ),
    Mutant(
        "attacks/minimal/fab.py",
        "x.index_copy_(0, hit, torch.lerp(centre, found, self.beta))",
        "pass",
        "test_apgd_fab.py::test_fab_starts_at_x0_and_goes_back_a_tenth_of_the_way_from_adversarial_points",
    ),
    Mutant(
        "attacks/blackbox/slope.py",
        "- value[:, 1, j]",
        "+ value[:, 1, j]",
        "test_score_based.py::test_a_slope_is_the_mean_of_what_the_gradient_says_along_each_draw",
    ),
    Mutant(
        "attacks/blackbox/nes.py",
        "< levels[:, 0]",
        "> levels[:, 0]",
        "test_score_based.py::test_nes_halves_its_step_where_the_loss_falls",
    ),
    Mutant(
        "attacks/blackbox/simba.py",
        "done = better | (s.sign < 0)",
        "done = s.sign < 0",
        "test_score_based.py::test_simba_asks_about_the_other_side_only_where_the_first_fails",
    ),
    Mutant(
        "attacks/blackbox/parsimonious.py",
        "= -math.inf\n        self.fresh[sure], self.moved[sure] = False, True",
        "= -math.inf",
        "test_score_based.py::test_parsimonious_finds_the_corner_of_a_plane_in_the_queries_of_lazy_greed",
    ),
    Mutant(
        "attacks/blackbox/bandits.py",
        "rate * (up - down)",
        "rate * (down - up)",
        "test_score_based.py::test_bandits_steps_along_the_prior_that_two_scores_made",
    ),
    Mutant(
        "attacks/blackbox/zoo.py",
        "self.lack1[count]",
        "self.lack1[count.amax()]",
        "test_score_based.py::test_every_coordinate_counts_its_own_steps",
    ),
    Mutant(
        "attacks/blackbox/square.py",
        "better = (value > s.value)",
        "better = (value >= -1e9)",
        "test_square_deepfool.py::test_square_spends_its_queries_and_never_gets_worse",
    ),
    Mutant(
        "rng.py", "keys = _mix(keys * _MIX2 +", "keys = _mix(keys * 0 +", "test_rng.py::test_every_word_of_the_address_counts"
    ),
    Mutant(
        "networks/parts.py",
        "a, x = self.root.square(), x.relu()",
        "a = self.root.square()",
        "test_networks.py::test_smooth_relu_is_what_the_paper_writes",
    ),
    Mutant(
        "networks/parts.py",
        "math.sqrt(gain / part",
        "math.sqrt(1 / part",
        "test_networks.py::test_weights_start_with_the_variance_of_he",
    ),
    Mutant(
        "networks/parts.py",
        "stream.at(name).normal",
        "stream.normal",
        "test_networks.py::test_layers_of_one_shape_start_with_weights_of_their_own",
    ),
    Mutant(
        "networks/parts.py",
        "isinstance(part, Block) and part.starts",
        "isinstance(part, Block) and not part.starts",
        "test_networks.py::test_without_normalisation_a_deep_network_starts_calm_and_learns",
    ),
    Mutant("models/sustainability.py", "out.clone()", "out", "test_layers.py"),
    Mutant(
        "models/sustainability.py",
        "handle.remove()",
        "pass",
        "test_layers.py::test_hooks_are_taken_away_again_also_after_an_error",
    ),
    Mutant(
        "models/sustainability.py",
        "values.mean() + dev",
        "values.mean() - dev",
        "test_layers.py::test_the_most_vulnerable_lie_a_deviation_above_the_mean",
    ),
    Mutant(
        "diagnosis/layers.py", "error[:n].double()", "error.double()", "test_layers.py::test_an_exported_graph_of_one_batch_size"
    ),
    Mutant(
        "models/saliency.py",
        "with seeded(number):",
        "if True:",
        "test_saliency.py::test_maps_of_a_random_model_are_a_mean_that_comes_again",
    ),
    Mutant(
        "auditing.py",
        "run.complete and (asked.saliency is None or run.saliency())",
        "run.complete",
        "test_saliency.py::test_maps_that_a_killed_run_lacks_are_made_by_resume",
    ),
    Mutant(
        "auditing.py",
        '((shown["x"][rows], shown["label"][rows])',
        '((shown["x"][rows], reached)',
        "test_saliency.py::test_an_audit_keeps_the_maps_of_what_its_report_pictures",
    ),
    Mutant("networks/vision.py", "* self.each**-0.5", "", "test_networks.py::test_attention_is_that_of_torch"),
    Mutant(
        "geometry/linf.py",
        "torch.clamp(x, *_interval(x0, epsilon, low, high), out=x)",
        "x",
        "test_geometry.py::test_projection_lands_stays_and_is_nearest",
    ),
    Mutant(
        "oracle.py",
        "self.goal.given_away(logits.argmax(1), clean.aim) & clean.open",
        "torch.zeros_like(clean.open) & clean.open",
        "test_oracle.py::test_a_clean_input_that_is_wrong_by_a_tie_is_broken",
    ),
    Mutant(
        "oracle.py",
        "(answer.margin, answer.loss, answer.gradient) if len(v)]",
        "(answer.margin, answer.loss) if len(v)]",
        "test_oracle.py::test_what_is_not_a_number_is_an_error_and_not_robustness",
    ),
    Mutant(
        "oracle.py",
        "self._close_silent(verdict.margin.isnan() & ~verdict.reached, q, rows, self.judge)",
        "pass",
        "test_oracle.py::test_what_has_no_answer_is_closed_with_its_reason_and_never_robust",
    ),
    Mutant(
        "oracle.py",
        'self.ledger.close(self.ids[self.open], "undecided: the time is up")',
        "self.ledger.closed[self.ids] = True",
        "test_oracle.py::test_a_deadline_closes_open_rows",
    ),
    Mutant(
        "oracle.py",
        'self.ledger.close(ids[~covered].unique(), f"undecided: the budget of {self.budget} queries is spent")',
        "self.ledger.closed[ids[~covered]] = True",
        "test_oracle.py::test_a_budget_closes_rows_as_undecided_with_exact_counts",
    ),
    Mutant(
        "oracle.py",
        "ledger.doubted[ids[verdict.doubted]] = True",
        "pass",
        "test_oracle.py::test_a_success_must_hold_in_float64_too",
    ),
    Mutant(
        "oracle.py",
        "oracle._close_silent(reference.isnan().any(1), ledger.point, oracle.ids, judge)",
        "pass",
        "test_oracle.py::test_what_has_no_answer_is_closed_with_its_reason_and_never_robust",
    ),
    Mutant(
        "oracle.py",
        "ledger.closed |= ~goal.applies(aim)",
        "pass",
        "test_oracle.py::test_a_row_the_goal_does_not_fit_is_inapplicable_and_not_attacked",
    ),
    Mutant(
        "oracle.py",
        "self._confirm_held()\n        return self.ledger.outcome(",
        "return self.ledger.outcome(",
        "test_oracle.py::test_of_ever_nearer_hits_the_last_alone_is_judged test_oracle.py::test_no_hit_that_waits_is_lost",
    ),
    Mutant(
        "oracle.py",
        "for held in reversed(self.ledger.held or ()):",
        "for held in (self.ledger.held or ())[:1]:",
        "test_oracle.py::test_a_hit_of_the_judges_own_waits_though_it_is_in_doubt_and_is_not_lost",
    ),
    Mutant(
        "oracle.py",
        "for held in reversed(self.ledger.held or ()):",
        "for held in (self.ledger.held or ())[1:]:",
        "test_oracle.py::test_no_hit_that_waits_is_lost",
    ),
    Mutant(
        "oracle.py",
        "with_judge._ask(p, None, Question(self.judge, Knowledge.TRANSFER))",
        "pass",
        "test_oracle.py::test_the_last_point_is_always_judged",
    ),
    Mutant(
        "oracle.py",
        "reference = guide.scores(x0)  # all that the adversary has",
        "pass",
        "test_transfer.py::test_a_transferred_attack_asks_the_victim_once_an_example",
    ),
    Mutant(
        "oracle.py",
        "return self.draws == 1 and not question.model.model.random",
        "return self.draws == 1",
        "test_defend.py::test_outcomes_do_not_depend_on_batch_mates",
    ),
    Mutant(
        "oracle.py",
        "calls = self.ledger.queries[ids]  # by the row's own count: fresh at every call",
        "calls = 0 * self.ledger.queries[ids]",
        (
            "test_oracle.py::test_answers_are_means_over_fresh_draws_and_all_are_counted "
            "test_oracle.py::test_labels_of_a_random_model_are_fresh_too"
        ),
    ),
    Mutant("ledger.py", "    if doubted:\n", "    if False:\n", "test_oracle.py::test_a_success_must_hold_in_float64_too"),
    Mutant(
        "ledger.py",
        "    if not fits:\n",
        "    if False:\n",
        "test_oracle.py::test_a_row_the_goal_does_not_fit_is_inapplicable_and_not_attacked",
    ),
    Mutant(
        "ledger.py",
        "self.failure[i] = self.failure[i] or reason",
        "pass",
        "test_oracle.py::test_the_first_reason_of_a_row_stands",
    ),
    Mutant(
        "ledger.py",
        'if broken:\n        return Status.BROKEN, ""\n    if failure is not None:',
        'if broken and failure is None:\n        return Status.BROKEN, ""\n    if failure is not None:',
        "test_oracle.py::test_a_success_within_the_budget_stays_one test_oracle.py::test_no_hit_that_waits_is_lost",
    ),
    Mutant(
        "asking.py",
        "return Answer(*(torch.stack(column).mean(0) for column",
        "return Answer(*(column[0] for column",
        "test_oracle.py::test_answers_are_means_over_fresh_draws_and_all_are_counted",
    ),
    Mutant(
        "asking.py",
        "torch.autograd.grad(loss.sum(), point)[0].contiguous()",
        "torch.autograd.grad(-loss.sum(), point)[0].contiguous()",
        "test_oracle.py::test_gradient_and_jacobian_are_those_of_autograd",
    ),
    Mutant(
        "asking.py",
        "            loss = want(goal.heard(logits, c.aim), c.aim)\n",
        "            loss = want(logits, c.aim)\n",
        (
            "test_detectors.py::test_an_attack_must_pass_the_detector_too "
            "test_detectors.py::test_a_refusal_serves_the_label_in_every_loss"
        ),
    ),
    Mutant(
        "asking.py",
        "x if transform is None else transform(x, c.stream)",
        "x",
        "test_transfer.py::test_a_transform_is_differentiated_and_makes_no_success",
    ),
    Mutant(
        "asking.py",
        'drawn = replace(model, model=model.model.drawn(c.stream.at("model")))',
        "drawn = model",
        "test_defend.py::test_outcomes_do_not_depend_on_batch_mates",
    ),
    Mutant(
        "engine/work.py",
        "verdict = self.prepared.judge.clean(x, goal, aim)",
        "verdict = self.prepared.judge.confirm(x, goal, aim)",
        "test_audit.py::test_what_the_model_gets_wrong_by_a_tie_is_not_robust",
    ),
    Mutant(
        "engine/work.py",
        "(logits.isnan().any(1) | (verdict.margin.isnan() & ~verdict.reached)).nonzero()",
        "(logits.isnan().any(1) & False).nonzero()",
        "test_audit.py::test_a_clean_input_without_an_answer_is_neither_right_nor_robust",
    ),
    Mutant(
        "engine/work.py",
        "proved, broken = least > 0, ",
        "proved, broken = least > -1, ",
        "test_certificates.py::test_certify_agrees_with_an_audit_and_proved_examples_are_not_attacked",
    ),
    Mutant(
        "engine/work.py",
        "        _recall(oracle, task.known, ids)\n",
        "",
        "test_audit.py::test_a_stage_that_measures_starts_from_what_is_known",
    ),
    Mutant(
        "engine/work.py",
        "for spec in stage.attacks]",
        "for spec in stage.attacks[:1]]",
        "test_curve.py::test_distances_of_a_linear_model_are_the_known_ones",
    ),
    Mutant(
        "engine/work.py", "stop=not nearest,", "stop=True,", "test_curve.py::test_distances_of_a_linear_model_are_the_known_ones"
    ),
    Mutant(
        "engine/work.py",
        "threat.minimal() if measure else threat,",
        "threat,",
        "test_audit.py::test_a_linear_model_is_broken_exactly_where_theory_says",
    ),
    Mutant(
        "engine/work.py",
        ".facing(self.prepared.judge.model)",
        "",
        "test_detectors.py::test_detect_tells_both_attacks_apart",
    ),
    Mutant(
        "defend/smooth.py",
        "self.classes, self.abstained =",
        "self.classes, self.rejected =",
        "test_smoothing.py::test_an_abstention_is_an_error_and_nobodys_target",
    ),
    Mutant(
        "threat/goal.py",
        "if t not in (self.rejected, self.abstained))",
        "if t != self.rejected)",
        "test_smoothing.py::test_an_abstention_is_an_error_and_nobodys_target",
    ),
    Mutant(
        "models/ensemble.py",
        "if ensemble.classes in (judge.model.rejected, judge.model.abstained):",
        "if False:",
        "test_transfer.py::test_a_model_that_refuses_is_attacked_by_surrogates_that_do_not",
    ),
    Mutant(
        "engine/execute.py",
        "standing: np.ndarray = self.applies & ~self.broken & ~self.proved",
        "standing: np.ndarray = self.applies & ~self.broken & ~self.proved & (self.margin > -1)",
        "test_profiles.py::test_only_survivors_go_on",
    ),
    Mutant(
        "engine/certified.py",
        "own = profile.compose(threat, model)",
        "own = profile.compose(threat, model)[1:]",
        "test_profiles.py::test_a_certificate_goes_before_the_whole_profile",
    ),
    Mutant(
        "engine/profiles.py",
        'return [*(step for step in own if step.kind != "measure"), *more, *measures]',
        "return own",
        "test_profiles.py::test_attacks_of_the_callers_decide_too",
    ),
    Mutant(
        "engine/profiles.py",
        '        Step("fab-t", (FABT(steps=100, targets=9),)),\n',
        "",
        "test_profiles.py::test_standard_is_autoattack",
    ),
    Mutant(
        "engine/profiles.py",
        "classes = model.classes - (model.rejected is not None)",
        "classes = model.classes",
        "test_profiles.py::test_few_classes_get_another_loss_and_the_stage_says_so",
    ),
    Mutant(
        "engine/profiles.py",
        "return min(threat.knowledge, model.gives) == Knowledge.SCORES",
        "return threat.knowledge == Knowledge.SCORES",
        "test_profiles.py::test_where_scores_are_all_there_is_no_stage_of_gradients",
    ),
    Mutant(
        "engine/plan.py",
        "if all(stage.inapplicable for stage in deciding) and not (stages and not deciding):",
        "if False:",
        "test_profiles.py::test_where_no_attack_can_be_run_nothing_is",
    ),
    Mutant(
        "engine/plan.py",
        "draws=profile.draws if model.random else 1,",
        "draws=1,",
        (
            "test_profiles.py::test_a_random_model_is_audited_by_the_rand_version "
            "test_audit.py::test_a_random_model_is_confirmed_on_fresh_draws"
        ),
    ),
    Mutant(
        "attacks/base.py",
        "part.settle(self.run(part, part.x0, part.threat))",
        "self.run(part, part.x0, part.threat)",
        "test_oracle.py::test_the_last_point_is_always_judged",
    ),
    Mutant(
        "attacks/base.py",
        "            if again.any():\n",
        "            if False:\n",
        "test_oracle.py::test_survivors_within_the_slack_are_run_again_on_the_untouched_model",
    ),
    Mutant(
        "attacks/base.py",
        "            oracle.settle_origin()\n",
        "",
        "test_oracle.py::test_clean_errors_are_broken_at_distance_zero_and_not_attacked",
    ),
    Mutant(
        "attacks/base.py",
        "for _ in range(self.restarts))",
        "for _ in range(1))",
        (
            "test_conformance.py::test_restarts_never_lose_a_success[pgd-linf:0.03] "
            "test_apgd_fab.py::test_apgd_starts_on_the_surface_of_the_ball_and_restarts_elsewhere"
        ),
    ),
    Mutant(
        "store/verdict.py",
        "(passed == len(_deciding(plan)))",
        "(passed > 0)",
        "test_verdict.py::test_a_stage_that_did_not_run_leaves_its_rows_undecided",
    ),
    Mutant("store/verdict.py", "(survived > 0) & ", "", "test_verdict.py::test_nothing_is_robust_where_no_stage_applies"),
    Mutant("store/verdict.py", '["survived", "inapplicable"])', '["survived", "inapplicable", "undecided"])', "test_verdict.py"),
    Mutant(
        "store/verdict.py",
        '(rows["status"] == "error") | ((rows["stage"] < 0) & _unsettled(rows))',
        '(rows["stage"] < 0) & _unsettled(rows)',
        "test_verdict.py::test_an_error_in_a_measuring_stage_is_not_robustness_either",
    ),
    Mutant("store/verdict.py", "_robust(plan, rows, case, n) & ~hit", "_robust(plan, rows, case, n)", "test_verdict.py"),
    Mutant(
        "store/verdict.py",
        "int(unsettled.sum()) + unseen, int(applies.sum()) + unseen)",
        "int(unsettled.sum()), int(applies.sum()))",
        "test_verdict.py::test_examples_that_a_run_never_saw_are_undecided",
    ),
    Mutant(
        "store/verdict.py",
        "return self.robust / self.n if",
        "return (self.robust + self.undecided) / self.n if",
        "test_verdict.py::test_what_is_no_evidence_widens_the_interval_and_is_never_robust",
    ),
    Mutant(
        "store/verdict.py", "wilson(self.robust, self.n)[0]", "wilson(self.robust + self.undecided, self.n)[0]", "test_verdict.py"
    ),
    Mutant(
        "store/verdict.py",
        "answered = first & ~_unsettled(columns)",
        "answered = first",
        "test_verdict.py::test_a_clean_answer_that_never_came_is_undecided",
    ),
    Mutant(
        "store/verdict.py",
        "distance <= epsilon * (1 + 1e-6) + rounding",
        "distance <= epsilon * (1 - 1e-6)",
        "test_verdict.py::test_rounding_is_forgiven_everywhere_alike",
    ),
    Mutant("store/verdict.py", '.astype(str), ["undecided", "error"])', '.astype(str), ["undecided"])', "test_verdict.py"),
    Mutant(
        "store/verdict.py",
        "distance[case[i]] = min(",
        "distance[case[i]] = max(",
        "test_verdict.py::test_the_least_distance_is_kept_and_the_first_stage_named",
    ),
    Mutant(
        "store/verdict.py", "if (proved & hit).any():", "if False:", "test_verdict.py::test_proved_and_broken_at_once_is_a_fault"
    ),
    Mutant(
        "store/verdict.py",
        "broken = int(within(self.distance, epsilon, self.rounding).sum())",
        "broken = int((self.distance < epsilon).sum())",
        "test_verdict.py test_report.py::test_the_curve_is_the_verdicts",
    ),
    Mutant(
        "store/compare.py",
        's == "robust" for g, i, s in zip(after.goals',
        's != "broken" for g, i, s in zip(after.goals',
        "test_verdict.py::test_what_became_undecided_is_lost",
    ),
    Mutant(
        "store/compare.py",
        "len(self.lost) > len(self.won) and self.p < SIGNIFICANCE",
        "len(self.lost) > len(self.won) and self.p < 0",
        "test_verdict.py::test_what_became_undecided_is_lost",
    ),
    Mutant(
        "store/compare.py",
        "float(binomtest(lost, lost + won, 0.5).pvalue)",
        'float(binomtest(lost, lost + won, 0.5, alternative="less").pvalue)',
        "test_verdict.py::test_what_became_undecided_is_lost",
    ),
    Mutant(
        "store/compare.py",
        '    _same(before, after, "goal", lambda run: run.spec["plan"]["goals"])\n',
        "",
        "test_verdict.py::test_runs_of_other_questions_are_not_compared",
    ),
    Mutant(
        "report/policy.py",
        "(score.interval[0] if sure else score.low)",
        "(score.interval[0] if sure else score.high)",
        "test_policy.py::test_require_tests_the_low_end",
    ),
    Mutant(
        "report/policy.py",
        "(score.interval[0] if sure else score.low)",
        "score.low",
        "test_policy.py::test_confident_tests_the_lower_bound",
    ),
    Mutant(
        "report/policy.py",
        "value > clause.bound if clause.strict else",
        "value >= clause.bound if clause.strict else",
        "test_policy.py",
    ),
    Mutant(
        "report/policy.py",
        "if score.n else math.nan",
        "if score.n else 1.0",
        "test_policy.py::test_nothing_is_met_without_an_example",
    ),
    Mutant(
        "cli/show.py",
        "return 0 if all(line.met for line in requirements) else 1",
        "return 0 if any(line.met for line in requirements) else 1",
        "test_cli.py::test_a_policy_decides_the_exit_code_and_is_written_as_junit test_cli.py::test_a_policy_file",
    ),
    Mutant(
        "cli/compare.py",
        "return 1 if any(c.fell for c in found) else 0",
        "return 0",
        "test_cli.py::test_compare_of_a_run_with_itself_and_with_a_worse_one",
    ),
    Mutant(
        "cli/__init__.py", "return error.exit_code", "return 0", "test_cli.py::test_compare_refuses_other_data_and_other_profiles"
    ),
    Mutant(
        "threat/threat.py",
        "inside[rows] = ball & self._boxed(near, origin)",
        "inside[rows] = ball",
        "test_threats.py::test_the_box_is_part_of_the_set test_oracle.py::test_the_box_and_the_constraints_are_judged",
    ),
    Mutant(
        "threat/threat.py",
        "return torch.maximum(shown - high, low - shown).flatten(1).amax(1) <=",
        "return (low - shown).flatten(1).amax(1) <=",
        "test_threats.py test_oracle.py::test_what_waits_lies_in_the_set",
    ),
    Mutant(
        "threat/threat.py",
        "<= self.epsilon * (1 + 1e-6) + spare\n        inside[rows]",
        "<= self.epsilon * (1 - 1e-6)\n        inside[rows]",
        "test_threats.py::test_what_a_set_contains_has_an_ulp_to_spare_and_no_more",
    ),
    Mutant(
        "threat/threat.py",
        "<= self.epsilon * 1.001 + 2 * spare",
        "<= self.epsilon",
        "test_threats.py::test_what_a_set_contains_has_an_ulp_to_spare_and_no_more",
    ),
    Mutant(
        "threat/threat.py",
        "self.norm.steepest(self.constraints.mutable(g))",
        "self.norm.steepest(g)",
        "test_threats.py::test_a_step_spends_nothing_on_what_may_not_change",
    ),
    Mutant(
        "threat/threat.py",
        "return torch.where(per_row(inside, p), shown, nearer)",
        "return shown",
        "test_threats.py::test_steps_projections_and_random_points_stay_inside",
    ),
    Mutant(
        "threat/constraints.py",
        "high = torch.where(fixed, x0,",
        "high = torch.where(~fixed, x0,",
        "test_threats.py::test_the_box_of_mask_limit_and_bounds",
    ),
    Mutant(
        "threat/constraints.py",
        "_least(x0 + reach, high)",
        "x0 + reach",
        "test_threats.py::test_the_box_of_mask_limit_and_bounds",
    ),
    Mutant("threat/constraints.py", "torch.round((x - low)", "torch.floor((x - low)", "test_threats.py::test_the_grid_of_a_file"),
    Mutant(
        "threat/transform.py",
        "return self.project(g.sign_().mul_(move).add_(p), x0, budget)",
        "return g.sign_().mul_(move).add_(p)",
        "test_conformance.py::test_points_lie_in_set_and_box[pgd-flow:0.2]",
    ),
    Mutant(
        "threat/transform.py",
        "torch.where(fixed & (ratio > 0), torch.inf, ratio)",
        "ratio",
        "test_transforms.py::test_a_parameter_that_is_not_the_adversarys_may_not_move",
    ),
    Mutant(
        "threat/composite.py",
        "/ part.epsilon for part, point in points]).amax(0)",
        "/ part.epsilon for part, point in points]).amin(0)",
        (
            "test_transforms.py::test_a_composite_is_as_far_as_the_part_that_needs_most "
            "test_transforms.py::test_a_composite_needs_less_of_each"
        ),
    ),
    Mutant(
        "threat/composite.py", "x = x + (point - x0)", "x = x", "test_transforms.py::test_a_composite_transforms_and_then_adds"
    ),
    Mutant(
        "threat/goal.py",
        "if self.to == self.source:",
        "if False:",
        "test_threats.py::test_goals_that_do_not_fit_a_model_are_refused",
    ),
    Mutant(
        "jobs.py",
        "if not any(bool(case.applies(case.aim(y, unknown, stream)).any()) for case in cases):",
        "if False:",
        "test_audit.py::test_bad_requests_write_nothing",
    ),
    Mutant("jobs.py", "if first != text:", "if False:", "test_audit.py::test_bad_requests_write_nothing"),
    Mutant("jobs.py", "if len(found) < len(texts):", "if False:", "test_audit.py::test_bad_requests_write_nothing"),
    Mutant(
        "data/arrays.py",
        "low + (high - low) * x.float() / 255",
        "x.float() / 255",
        "test_data.py::test_8_bit_values_are_brought_to_the_bounds_that_were_declared",
    ),
    Mutant(
        "jobs.py",
        "bounds=request.bounds",
        "bounds=(0.0, 1.0)",
        "test_data.py::test_an_audit_loads_8_bit_data_in_the_bounds_of_its_model",
    ),
    Mutant(
        "data/arrays.py",
        'not file.read(6).startswith((b"PK", b"\\x93NUMPY"))',
        "False",
        "test_data.py::test_pickles_in_npz_are_refused_and_not_run",
    ),
    Mutant(
        "attacks/base.py",
        "if (carried or self.aided) and prepared.surrogate is None:",
        "if self.aided and prepared.surrogate is None:",
        "test_transfer.py::test_without_surrogates_what_was_made_elsewhere_alone_is_judged",
    ),
    Mutant(
        "oracle.py",
        "own = model is not self.judge and self.surrogate is not None",
        "own = model is not self.judge",
        "test_oracle.py::test_what_is_not_granted_is_refused_by_both_names",
    ),
    Mutant(
        "models/http/model.py",
        "if spend is not None and not endpoint.price:",
        "if False:",
        "test_http_model.py::test_money_buys_what_it_says",
    ),
    Mutant(
        "models/http/client.py",
        "if self.endpoint.guard is not None and code in self.endpoint.guard.refuses:",
        "if False:",
        "test_http_model.py",
    ),
    Mutant(
        "engine/work.py",
        "if stored and self.plan.queries is not None and nearest:",
        "if stored and self.plan.queries is not None and nearest and threat.knowledge == 1:",
        "test_probe.py",
    ),
    Mutant(
        "threat/goal.py",
        "stays = torch.maximum(stays, logits[:, self.rejected])",
        "pass",
        "test_threats.py::test_a_margin_is_positive_exactly_where_the_goal_is_reached",
    ),
    Mutant(
        "threat/goal.py",
        "return label != aim.y",
        "return torch.zeros_like(label, dtype=torch.bool)",
        "test_audit.py::test_what_the_model_gets_wrong_by_a_tie_is_not_robust",
    ),
    Mutant(
        "threat/goal.py",
        "others.topk(self.k, dim=1)",
        "others.topk(self.k + 1, dim=1)",
        "test_threats.py::test_a_margin_is_positive_exactly_where_the_goal_is_reached",
    ),
    Mutant(
        "threat/goal.py",
        "math.log(self.below / (1 - self.below))",
        "math.log(self.below)",
        "test_threats.py::test_a_margin_is_positive_exactly_where_the_goal_is_reached",
    ),
    Mutant(
        "threat/goal.py",
        "return gap - self.surplus if self.surplus else gap",
        "return gap",
        "test_carlini.py::test_a_surplus_comes_off_every_margin",
    ),
    Mutant(
        "threat/goal.py",
        "torch.logaddexp(pick(logits, aim.y), logits[:, self.rejected])",
        "pick(logits, aim.y)",
        "test_detectors.py::test_a_refusal_serves_the_label_in_every_loss",
    ),
    Mutant(
        "threat/goal.py",
        "fits = aim.target != aim.y",
        "fits = aim.target == aim.target",
        "test_threats.py::test_where_goals_apply",
    ),
    Mutant(
        "geometry/l2.py",
        "v.mul_(per_row(s.sqrt_().clamp_(max=1).to(v.dtype), v))",
        "v.mul_(per_row(s.clamp_(max=1).to(v.dtype), v))",
        (
            "test_geometry.py::test_projection_spends_the_whole_budget_at_image_size "
            "test_geometry.py::test_projection_against_scipy"
        ),
    ),
    Mutant(
        "geometry/l1.py",
        "size.double().sub_(lam[:, None])",
        "size.double().sub_(1.01 * lam[:, None])",
        (
            "test_geometry.py::test_projection_against_scipy "
            "test_geometry.py::test_projection_spends_the_whole_budget_at_image_size"
        ),
    ),
    Mutant(
        "geometry/l0.py",
        "(at & (at.cumsum(1) <= spare))",
        "(at & (at.cumsum(1) < spare))",
        "test_geometry.py::test_l0_ties_fall_to_the_first test_geometry.py::test_l0_projection_against_enumeration",
    ),
    Mutant(
        "geometry/linf.py",
        "key = (epsilon, low, high, x0._version)",
        "key = (low, high, x0._version)",
        "test_geometry.py::test_an_interval_in_linf_is_of_its_budget_and_its_point",
    ),
    Mutant(
        "geometry/linf.py",
        "key = (epsilon, low, high, x0._version)",
        "key = (epsilon, low, high)",
        "test_geometry.py::test_an_interval_in_linf_is_of_its_budget_and_its_point",
    ),
    Mutant(
        "geometry/solve.py",
        "turned = torch.ones_like(v).copysign_(v)",
        "turned = torch.ones_like(v)",
        "test_geometry.py::test_projection_against_scipy",
    ),
    Mutant(
        "geometry/l1.py",
        "kept = max(1, size.shape[1] - math.floor(self.quantile * size.shape[1]))",
        "kept = size.shape[1]",
        "test_geometry.py::test_slide_moves_the_top_hundredth",
    ),
    Mutant(
        "models/prepared.py",
        "reached = margin > 4 * self.noise",
        "reached = margin > 0",
        "test_oracle.py::test_without_float64_the_margin_must_exceed_four_times_the_noise",
    ),
    Mutant(
        "models/prepared.py",
        "slack = 4 * max(drift, noise) if",
        "slack = 0.0 if",
        "test_oracle.py::test_a_prepared_guide_says_what_was_done_and_answers_the_same",
    ),
    Mutant(
        "models/prepared.py",
        "return moved <= LOGITS and cosine >= COSINE, reason",
        "return moved <= LOGITS, reason",
        "test_oracle.py::test_a_step_that_bends_the_gradient_is_dropped",
    ),
    Mutant(
        "models/prepared.py",
        "with seeded(number):",
        "with seeded(0):",
        "test_oracle.py::test_a_hit_on_a_random_model_is_confirmed_on_fresh_draws",
    ),
    Mutant(
        "models/prepared.py",
        "exact = None if model.random else model.double()",
        "exact = None",
        "test_oracle.py::test_a_prepared_guide_says_what_was_done_and_answers_the_same",
    ),
    Mutant(
        "models/contract.py",
        "    for finding in training(model):\n        raise ModelError(finding.message)\n",
        "",
        "test_models.py::test_a_model_in_training_mode_is_refused",
    ),
    Mutant(
        "models/contract.py",
        "if low <= least and most <= high:",
        "if low <= least:",
        "test_models.py::test_data_that_break_the_contract",
    ),
    Mutant(
        "models/contract.py",
        "elif high >= model.classes or low < 0:",
        "elif high > model.classes or low < 0:",
        "test_models.py::test_data_that_break_the_contract",
    ),
    Mutant(
        "models/checks.py",
        "        probe.model.flat = True\n",
        "        pass\n",
        "test_models.py::test_gradients_that_vanish_at_some_examples_are_told",
    ),
    Mutant(
        "models/checks.py",
        "int((lost | sharp).sum())",
        "int(sharp.sum())",
        "test_models.py::test_gradients_that_vanish_at_some_examples_are_told",
    ),
    Mutant(
        "models/checks.py",
        "(probe.logits > floor).sum(1) <= 1",
        "(probe.logits > floor).sum(1) <= 0",
        "test_models.py::test_gradients_that_vanish_at_some_examples_are_told",
    ),
    Mutant(
        "engine/flat.py",
        "if step.name not in known]",
        "]",
        "test_profiles.py::test_where_gradients_vanish_somewhere_attacks_by_scores_stand_behind",
    ),
    Mutant(
        "engine/flat.py",
        "if threat.knowledge < Knowledge.GRADIENT:",
        "if False:",
        "test_profiles.py::test_where_gradients_vanish_somewhere_attacks_by_scores_stand_behind",
    ),
    Mutant(
        "models/raised.py",
        " and not out_of_memory(error)",
        "",
        "test_models.py::test_what_a_model_raises_is_told_from_what_it_cannot_help",
    ),
    Mutant(
        "engine/work.py",
        "        if self.prepared.guide.model is judge.model:\n",
        "        if True:\n",
        "test_audit.py::test_what_the_guide_breaks_is_no_fault_of_the_model",
    ),
    Mutant(
        "engine/work.py",
        "            if len(ids) > 1 or oracle.guide.model is not oracle.judge.model:\n",
        "            if False:\n",
        "test_audit.py::test_rows_at_which_the_model_raises_are_errors_and_the_others_go_on",
    ),
    Mutant(
        "engine/work.py",
        'here = np.isin(stored["ids"], ids.cpu().numpy())',
        'here = np.ones(len(stored["ids"]), bool)',
        "test_audit.py::test_a_part_of_a_unit_begins_from_what_is_known_of_its_own_rows",
    ),
    Mutant(
        "attacks/base.py",
        "        check_data(subject, x, y)\n",
        "",
        "test_oracle.py::test_what_cannot_be_attacked_is_said_before_the_model_is_attacked",
    ),
    Mutant("cli/__init__.py", "    return 3\n", "    return 1\n", "test_cli.py::test_what_nobody_foresaw_is_exit_3_and_one_line"),
    Mutant(
        "models/checks.py",
        "        probe.model.random = True\n",
        "        pass\n",
        "test_models.py::test_a_random_model_is_marked",
    ),
    Mutant(
        "models/checks.py",
        "if moved > COUPLED * probe.scale:",
        "if False:",
        "test_models.py::test_outputs_that_break_the_contract",
    ),
    Mutant(
        "models/checks.py",
        "        probe.model.gives = Knowledge.SCORES\n",
        "        pass\n",
        "test_models.py::test_a_model_without_gradient_gives_scores",
    ),
    Mutant(
        "models/checks.py",
        'if declared == "logits" and _sums_to_one(z):',
        "if False:",
        (
            "test_models.py::test_outputs_that_break_the_contract "
            "test_models.py::test_one_value_a_row_is_a_margin_or_a_probability"
        ),
    ),
    Mutant(
        "certificates/certificate.py",
        "return Proof(lower.masked_fill(~wanted, torch.inf).amin(1)",
        "return Proof(lower.masked_fill(~wanted, -torch.inf).amax(1)",
        "test_certificates.py::test_certify_agrees_with_an_audit_and_proved_examples_are_not_attacked",
    ),
    Mutant(
        "certificates/certificate.py",
        "at = (aim.target - (aim.target > aim.y).long())",
        "at = aim.target",
        "test_certificates.py::test_a_target_is_bounded_by_its_own_margin",
    ),
    Mutant(
        "certificates/certificate.py",
        "if isinstance(goal, Confidence):",
        "if False:",
        "test_certificates.py::test_targets_that_cannot_be_reached_are_proved",
    ),
    Mutant(
        "certificates/certificate.py",
        "if model.rejected is not None or",
        "if False and",
        "test_certificates.py::test_what_is_refused",
    ),
    Mutant(
        "certificates/certificate.py",
        "found[rows] = torch.maximum(found[rows], self._bound(network.exact, threat, x[rows], y[rows]))",
        "found[rows] = found[rows] + lost[rows]",
        "test_certificates.py::test_what_rounding_costs_is_bounded_again_in_float64",
    ),
    Mutant(
        "certificates/crown.py",
        "                leaf.clamp_(0, 1)\n",
        "                pass\n",
        (
            "test_certificates.py::test_pgd_stays_above_every_bound "
            "test_certificates.py::test_no_point_of_the_set_violates_a_bound"
        ),
    ),
    Mutant(
        "certificates/crown.py",
        "return torch.maximum(plain, substitute(bounds, functions, kept))",
        "return torch.maximum(plain, best)",
        "test_certificates.py::test_slopes_that_did_not_move_give_the_bound_with_rounding_taken_off",
    ),
    Mutant(
        "certificates/crown.py",
        "found = sign * lower(bounds, functions._replace(pick=pick))",
        "found = lower(bounds, functions._replace(pick=pick))",
        "test_certificates.py::test_pgd_stays_above_every_bound",
    ),
    Mutant(
        "certificates/backward.py",
        "    if sound and terms:\n",
        "    if False:\n",
        "test_certificates.py::test_rounding_is_charged_at_every_product",
    ),
    Mutant(
        "certificates/backward.py",
        "    if sound:  # |A| is A - 2 negative\n",
        "    if False:\n",
        "test_certificates.py::test_rounding_is_charged_at_every_activation",
    ),
    Mutant(
        "certificates/backward.py",
        "negative = A.clamp(max=0)",
        "negative = A.clamp(max=0) * 0.99",
        "test_certificates.py::test_no_point_of_the_set_violates_a_bound",
    ),
    Mutant(
        "certificates/backward.py",
        "coefficients[before] = coefficients[before] + A if before in coefficients else A",
        "coefficients[before] = A",
        "test_certificates.py::test_no_point_of_the_set_violates_a_bound",
    ),
    Mutant(
        "certificates/region.py",
        "if bool(((x < low - spare) | (x > high + spare)).any()):",
        "if False:",
        "test_certificates.py::test_an_example_outside_of_its_own_set_is_refused",
    ),
    Mutant(
        "certificates/backward.py",
        "if sides and operator.bias.shape == (channels, *[1] * len(sides)):",
        "if sides and operator.bias.ndim == 1 + len(sides):",
        "test_certificates.py::test_no_point_of_the_set_violates_a_bound",
    ),
    Mutant(
        "certifying.py",
        "np.logical_and.at(proved, row, threat.proved)",
        "np.logical_or.at(proved, row, threat.proved)",
        "test_certificates.py::test_certify_agrees_with_an_audit_and_proved_examples_are_not_attacked",
    ),
    Mutant(
        "certifying.py",
        "np.minimum.at(bounds, row,",
        "np.put(bounds, row,",
        "test_certificates.py::test_targets_that_cannot_be_reached_are_proved",
    ),
    Mutant(
        "report/bounds.py",
        'if not unused(folder, f"{name}.json"):',
        "if False:",
        "test_smoothing.py::test_a_result_is_kept_as_json_and_as_a_page",
    ),
    Mutant(
        "certificates/region.py",
        "spare, radius = 2 * threat.rounding(), threat.epsilon * (1 + 1e-6) + 2 * threat.rounding()",
        "spare, radius = 0.0, threat.epsilon",
        "test_certificates.py::test_a_region_holds_what_the_set_forgives",
    ),
    Mutant(
        "certificates/region.py",
        "return found - 2 * gamma(summed(A.shape[2:]), A.dtype) * dot(size, self.box.magnitude + radius)",
        "return found",
        "test_certificates.py::test_a_bound_over_the_input_is_below_the_exact_one",
    ),
    Mutant(
        "certificates/region.py",
        'DUAL = {"l1": torch.inf, "l2": 2.0}',
        'DUAL = {"l1": 2.0, "l2": torch.inf}',
        "test_certificates.py::test_a_linear_model_is_bounded_exactly",
    ),
    Mutant(
        "certificates/activations.py",
        "slack = self.curvature * step.square() / 8 * (1 + 1e-3) + rounding + self.kinks",
        "slack = rounding",
        "test_certificates.py::test_a_smooth_activation_stays_between_its_lines_off_the_grid",
    ),
    Mutant(
        "certificates/activations.py",
        'SIGMOID = Smooth("sigmoid", torch.sigmoid, _sigmoid_slope, 0.0963)',
        'SIGMOID = Smooth("sigmoid", torch.sigmoid, _sigmoid_slope, 0.00963)',
        "test_certificates.py::test_a_smooth_activation_stays_between_its_lines_off_the_grid",
    ),
    Mutant(
        "certificates/activations.py",
        ", 0.7699)",
        ", 0.07699)",
        "test_certificates.py::test_a_smooth_activation_stays_between_its_lines_off_the_grid",
    ),
    Mutant(
        "certificates/activations.py",
        "F.silu, lambda x: x.sigmoid() + x * _sigmoid_slope(x), 0.5)",
        "F.silu, lambda x: x.sigmoid() + x * _sigmoid_slope(x), 0.05)",
        "test_certificates.py::test_a_smooth_activation_stays_between_its_lines_off_the_grid",
    ),
    Mutant(
        "certificates/activations.py",
        "F.gelu, _gelu_slope, 0.798)",
        "F.gelu, _gelu_slope, 0.0798)",
        "test_certificates.py::test_a_smooth_activation_stays_between_its_lines_off_the_grid",
    ),
    Mutant(
        "certificates/activations.py",
        "lambda x: x.clamp(max=0).exp(), 1.0)",
        "lambda x: x.clamp(max=0).exp(), 0.1)",
        "test_certificates.py::test_a_smooth_activation_stays_between_its_lines_off_the_grid",
    ),
    Mutant(
        "certificates/activations.py",
        "(self.slope - chord) * lower",
        "(self.slope - chord) * lower * 0.99",
        "test_certificates.py::test_every_alpha_is_sound",
    ),
    Mutant(
        "certificates/activations.py",
        "turn = torch.where(loose, (1.0 - self.slope) * one,",
        "turn = torch.where(loose, 1.02 * one,",
        "test_certificates.py::test_every_alpha_is_sound",
    ),
    Mutant(
        "certificates/affine.py",
        "terms, uses = (crossed, taps) if transposed else (taps, crossed)",
        "terms, uses = 1, 1",
        "test_certificates.py::test_rounding_of_a_convolution_is_that_of_all_its_products",
    ),
    Mutant(
        "certificates/affine.py",
        "lambda x: convolve(x, size)",
        "lambda x: convolve(x, 0.99 * size)",
        "test_certificates.py::test_no_point_of_the_set_violates_a_bound",
    ),
    Mutant(
        "certificates/operators.py",
        "return (terms + 8) * torch.finfo(dtype).eps / 2",
        "return 0.0",
        "test_certificates.py::test_float32_is_outside_of_float64",
    ),
    Mutant(
        "certificates/operators.py",
        "return Box(middle - reach, middle + reach).widened(slack)",
        "return Box(middle - reach, middle + reach)",
        "test_certificates.py::test_float32_is_outside_of_float64",
    ),
    Mutant(
        "defend/base.py",
        "if not self._substituted:",
        "if True:",
        "test_defend.py::test_backward_is_the_identity_and_forward_is_exact",
    ),
    Mutant(
        "defend/base.py",
        "return shown + (instead - instead.detach())",
        "return instead",
        "test_defend.py::test_backward_is_the_identity_and_forward_is_exact",
    ),
    Mutant(
        "defend/base.py",
        "self.random = random or model.random",
        "self.random = random",
        "test_defend.py::test_defences_stack_and_keep_the_contract test_defend.py test_defences.py",
    ),
    Mutant(
        "defend/base.py",
        'twin.model, twin._stream = self.model.drawn(stream.at("behind")), stream',
        "twin.model, twin._stream = self.model, stream",
        (
            "test_defend.py::test_defences_stack_and_keep_the_contract "
            "test_defend.py::test_draws_are_each_rows_own "
            "test_defend.py::test_outcomes_do_not_depend_on_batch_mates"
        ),
    ),
    Mutant(
        "defend/bpda.py",
        "    twin.differentiable = False\n",
        "",
        (
            "test_defend.py::test_bpda_passes_the_layers_that_are_named "
            "test_defend.py::test_nothing_is_told_of_what_is_well_or_declared"
        ),
    ),
    Mutant(
        "detectors/guarded.py",
        "excess = self.gain * (score.double() - self.threshold)",
        "excess = self.gain * score.double()",
        (
            "test_detectors.py::test_joint_success_by_hand "
            "test_detectors.py::test_a_guarded_model_rejects_held_out_inputs_at_the_rate"
        ),
    ),
    Mutant(
        "detectors/guarded.py",
        "self.classes, self.rejected = model.classes + 1, model.classes",
        "self.classes, self.rejected = model.classes + 1, None",
        "test_detectors.py::test_joint_success_by_hand test_detectors.py::test_an_attack_must_pass_the_detector_too",
    ),
    Mutant(
        "detectors/guarded.py",
        "math.floor(false_alarms * len(scores) * (1 + 1e-9))",
        "math.ceil(false_alarms * len(scores) * (1 + 1e-9))",
        "test_detectors.py::test_a_threshold_keeps_the_rate_of_false_alarms_and_no_lower_one_does",
    ),
    Mutant(
        "threat/wasserstein.py",
        "return (good & stays).flatten(1).all(1) & (self.distance(p, x0) <= self.epsilon * (1 + 1e-6))",
        "return (good & stays).flatten(1).all(1)",
        (
            "test_transforms.py::test_projected_plans_lie_in_the_ball_and_the_box "
            "test_transforms.py::test_plans_move_brightness_and_pay_for_distance "
            "test_transforms.py::test_points_are_in_the_set_where_their_largest_ratio_is"
        ),
    ),
    Mutant(
        "threat/wasserstein.py",
        "& (exact >= 0).all(1) &",
        "&",
        "test_transforms.py::test_a_plan_sends_nothing_negative",
    ),
    Mutant(
        "threat/spatial.py",
        "return sample(x0, y + (u * sine - v * less - dy), x + (-v * sine - u * less - dx), black)",
        "return sample(x0, y + (u * sine - v * less - dy), x + (-v * sine - u * less), black)",
        (
            "test_transforms.py::test_whole_shifts_move_pixels_to_the_bit "
            "test_transforms.py::test_half_shifts_are_means_of_neighbours"
        ),
    ),
    Mutant(
        "engine/transfers.py",
        "return MIFGSM() if quick else VMIFGSM()",
        "return MIFGSM(steps=1)",
        "test_transfer.py::test_what_is_transferred_is_a_whole_attack",
    ),
    Mutant(
        "cli/certify.py",
        "json, require or [], confident or [], summary=summary)",
        "json, [], [], summary=summary)",
        "test_certificates.py::test_the_command",
    ),
    Mutant(
        "attacks/gradient/from_bound.py",
        "lower[0].argsort()[",
        "lower[0].argsort(descending=True)[",
        "test_from_bound.py::test_the_starts_lie_in_the_set_where_the_linear_bound_is_least",
    ),
    Mutant(
        "certificates/region.py",
        "share = (self.ball.radius / length).clamp(max=1)",
        "share = (self.ball.radius / length).clamp(max=1).mul(0).add(1)",
        "test_from_bound.py::test_the_starts_lie_in_the_set_where_the_linear_bound_is_least",
    ),
    Mutant(
        "train/weights.py",
        "reshard_after_forward=True",
        "reshard_after_forward=False",
        "test_train.py::test_two_processes_train_what_one_does",
    ),
    Mutant(
        "train/loop.py",
        "share = len(batch.x0) * together.processes() / len(rows)",
        "share = 1",
        "test_train.py::test_two_processes_train_what_one_does",
    ),
    Mutant(
        "train/loop.py",
        "own = self.standing.own[self.fabric.global_rank]",
        "own = self.standing.own[0]",
        "test_train.py::test_two_processes_train_what_one_does",
    ),
    Mutant(
        "train/together.py",
        "range(distributed.get_rank() if",
        "range(0 if",
        "test_train.py::test_two_processes_train_what_one_does",
    ),
    Mutant(
        "train/together.py",
        "distributed.all_reduce(value)",
        "pass",
        "test_train.py::test_two_processes_train_what_one_does",
    ),
    Mutant(
        "train/awp.py",
        "together.summed(g) for g in own",
        "g for g in own",
        "test_train.py::test_two_processes_train_what_one_does",
    ),
    Mutant(
        "train/loop.py",
        "drawn = joint if self.mixes else rows",
        "drawn = rows",
        "test_train.py::test_two_processes_train_what_one_does",
    ),
    Mutant(
        "train/manifold.py",
        "together.mine(int(joint) // 2)",
        "together.mine(len(batch.x0) // 2)",
        "test_train.py::test_two_processes_train_what_one_does",
    ),
    Mutant(
        "train/loop.py",
        "batches[-2:] = [torch.cat(batches[-2:])]",
        "pass",
        "test_train.py::test_a_last_batch_of_one_row_joins_the_one_before",
    ),
    Mutant(
        "train/called.py",
        "with self.fabric.autocast():",
        "if True:",
        "test_train.py::test_mixed_precision_trains_about_the_same",
    ),
    Mutant(
        "models/convolution.py",
        "cheap and not torch.is_autocast_enabled(x.device.type)",
        "cheap",
        "test_train.py::test_mixed_precision_trains_about_the_same",
    ),
    Mutant(
        "train/universal.py",
        "together.summed(change.grad).nan_to_num()",
        "together.summed(change.grad)",
        "test_train.py::test_gradients_that_overflow_leave_no_trace_in_what_is_kept",
    ),
    Mutant(
        "train/free.py",
        "shown.grad.nan_to_num()",
        "shown.grad",
        "test_train.py::test_gradients_that_overflow_leave_no_trace_in_what_is_kept",
    ),
    Mutant(
        "train/multi.py",
        "per_row(loss > worst, x)",
        "per_row(loss < worst, x)",
        "test_recipes.py::test_unions_are_the_mean_and_the_worst_of_their_parts",
    ),
    Mutant(
        "train/loop.py",
        "            self.average.update(self.weights.whole)",
        "            pass",
        "test_train.py::test_an_average_of_each_update_is_what_is_kept",
    ),
    Mutant(
        "train/weights.py",
        'optimiser.load_state_dict(state["optimiser"])',
        "pass",
        "test_train.py::test_a_training_that_was_stopped_goes_on_to_the_bit",
    ),
    Mutant(
        "train/loop.py",
        'self.average.model.load_state_dict(state["average"])',
        "pass",
        "test_train.py::test_a_training_that_was_stopped_goes_on_to_the_bit",
    ),
    Mutant(
        "train/loop.py",
        'torch.set_rng_state(own["random"]["cpu"])',
        "pass",
        "test_train.py::test_a_training_that_was_stopped_goes_on_to_the_bit",
    ),
    Mutant(
        "train/loop.py",
        'for name, value in own["memory"].items()}',
        "for name, value in {}.items()}",
        "test_train.py::test_a_training_that_was_stopped_goes_on_to_the_bit",
    ),
    Mutant(
        "train/loop.py",
        "broke = broke_down(value, standing.best_score)",
        "broke = value < -1",
        "test_train.py::test_the_guard_goes_back_and_on",
    ),
    Mutant(
        "train/loop.py",
        "min(LITTLE * best, best - NOISE)",
        "LITTLE * best",
        "test_train.py::test_when_robust_accuracy_breaks_down",
    ),
    Mutant(
        "train/loop.py",
        "self.recipe = self.recipe.calmer() or self.recipe",
        "self.recipe = self.recipe",
        "test_train.py::test_the_guard_goes_back_and_on",
    ),
    Mutant(
        "train/loop.py",
        "standing.epoch - since >= patience",
        "standing.epoch - since > patience",
        "test_train.py::test_patience_ends_it",
    ),
    Mutant("train/loop.py", "self.training.peak * self.schedule(progress)", "self.training.peak", "test_train.py"),
    Mutant("train/loop.py", "max_norm=self.training.clip", "max_norm=1e9", "test_train.py"),
    Mutant(
        "train/loop.py",
        "if not values.isfinite().all():",
        "if False:",
        "test_train.py::test_a_loss_that_is_no_number_keeps_the_checkpoint_before",
    ),
    Mutant(
        "train/trades.py",
        "lambda logits: divergence(clean, logits)",
        "lambda logits: -divergence(clean, logits)",
        "test_train.py::test_trades_climbs_the_divergence_and_both_sides_get_gradients",
    ),
    Mutant(
        "train/trades.py",
        "self.beta * divergence(clean, attacked)",
        "self.beta * divergence(clean.detach(), attacked)",
        "test_train.py::test_trades_climbs_the_divergence_and_both_sides_get_gradients",
    ),
    Mutant(
        "train/mart.py",
        "divergence(clean, attacked) * (1 - probability)",
        "divergence(clean, attacked) * probability",
        "test_recipes.py::test_mart_by_hand",
    ),
    Mutant(
        "train/awp.py",
        "w.copy_(before)",
        "pass",
        "test_recipes.py::test_awp_raises_the_loss_puts_back_and_leaves_the_averages_as_one_pass_would",
    ),
    Mutant(
        "train/awp.py",
        "alpha=float(self.awp.gamma",
        "alpha=-float(self.awp.gamma",
        "test_recipes.py::test_awp_raises_the_loss_puts_back_and_leaves_the_averages_as_one_pass_would",
    ),
    Mutant(
        "train/free.py",
        "kept[:n] + step, torch",
        "kept[:n] - step, torch",
        "test_train.py::test_free_keeps_one_perturbation_in_the_ball",
    ),
    Mutant(
        "train/fast.py",
        "return 1 - functional.cosine_similarity",
        "return 1 + functional.cosine_similarity",
        "test_train.py::test_gradalign_is_zero_where_the_loss_is_linear_and_teaches_the_weights",
    ),
    Mutant(
        "train/fast.py",
        "2 * self.gradalign or 0.2",
        "self.gradalign",
        "test_more_recipes.py::test_fast_goes_back_and_on_with_gradalign",
    ),
    Mutant("train/average.py", "old * decay + new * (1 - decay)", "old * (1 - decay) + new * decay", "test_train.py"),
    Mutant(
        "train/ibp.py",
        "kappa * clean + (1 - kappa) * worst",
        "(1 - kappa) * clean + kappa * worst",
        "test_certified_training.py::test_epsilon_grows_smoothly_and_kappa_falls",
    ),
    Mutant(
        "certificates/neurons.py",
        "torch.minimum(box.upper[0, at], -opposite)",
        "torch.minimum(box.upper[0, at], opposite)",
        "test_branching.py::test_sharpened_boxes_hold",
    ),
    Mutant(
        "certificates/neurons.py",
        "[others, chosen.rows(~bent), both]",
        "[others, both]",
        "test_branching.py::test_trees_of_neurons_come_near_the_truth",
    ),
    Mutant(
        "certificates/neurons.py",
        "seconds * work[layer] / sum(work)",
        "seconds",
        "test_branching.py::test_time_bounds_what_neurons_get",
    ),
    Mutant(
        "certificates/branching.py",
        "again.lower.where(open_, tree.lower)",
        "again.lower",
        "test_branching.py::test_what_a_quarter_of_the_time_settled_stays_so",
    ),
    Mutant("train/checkpoint.py", "weights_only=True", "weights_only=False", "test_train.py"),
    Mutant(
        "hardening.py",
        'job.request.training.keep == "best"',
        'job.request.training.keep == "last"',
        "test_train.py::test_what_is_kept_is_what_was_asked_for",
    ),
    Mutant(
        "hardening.py",
        'asked = ("schema", "request", "recipe", "data", "test", "weights")',
        'asked = ("schema",)',
        "test_train.py::test_a_network_is_hardened_and_measured",
    ),
    Mutant(
        "hardening.py",
        '"data", "test", "weights")',
        '"data", "weights")',
        "test_train.py::test_other_examples_under_the_same_name_are_not_the_same_training",
    ),
    Mutant(
        "hardening.py",
        'if any(folder.rglob(checkpoint.NAME)) or any(folder.glob(WEIGHTS.format("*"))):',
        "if True:",
        "test_train.py::test_a_request_that_came_to_nothing_makes_room",
    ),
    Mutant(
        "hardening.py",
        'if any(folder.rglob(checkpoint.NAME)) or any(folder.glob(WEIGHTS.format("*"))):',
        "if False:",
        "test_train.py::test_a_request_that_came_to_nothing_makes_room",
    ),
    Mutant(
        "hardening.py",
        "        shutil.rmtree(folder / BEFORE, ignore_errors=True)\n",
        "",
        "test_train.py::test_a_request_that_came_to_nothing_makes_room",
    ),
    Mutant(
        "hardening.py",
        '"robust_accuracy": union(threats).low',
        '"robust_accuracy": threats[0].score.low',
        "test_train.py::test_a_union_is_audited_and_judged_threat_by_threat_and_at_once",
    ),
    Mutant(
        "hardening.py",
        "x = x[torch.arange(4) % len(x)]",
        "x = x[:4]",
        "test_train.py::test_a_network_is_exported_by_one_example_too",
    ),
    Mutant(
        "training_jobs.py",
        "shared(tested.x, task.x)",
        "shared(tested.x, examples.x)",
        "test_train.py::test_audits_on_what_was_trained_on_say_so",
    ),
    Mutant(
        "training_jobs.py",
        "in_range(request.bounds, examples.x)",
        "in_range(request.bounds, examples.x[:0])",
        "test_train.py::test_a_wrong_request_writes_nothing",
    ),
    Mutant(
        "train/validation.py",
        "torch.stack(under or [right[-1]]).all(0)",
        "torch.stack(under or [right[-1]]).any(0)",
        "test_train.py::test_an_epoch_is_judged_by_what_withstands_every_threat",
    ),
    Mutant(
        "train/loop.py",
        "for part in self.recipe.threats(task.threat)]",
        "for part in [task.threat]]",
        "test_train.py::test_an_epoch_is_judged_by_what_withstands_every_threat",
    ),
    Mutant(
        "train/layers.py",
        "            if name not in seen:\n",
        "            if False:\n",
        "test_train.py::test_a_wrong_request_writes_nothing",
    ),
    Mutant(
        "store/verdict.py",
        'set.intersection(*cases("robust"))',
        'set.union(*cases("robust"))',
        "test_verdict.py::test_a_union_is_of_the_same_cases",
    ),
    Mutant(
        "store/verdict.py",
        'set.union(*cases("broken"))',
        'set.intersection(*cases("broken"))',
        "test_verdict.py::test_a_union_is_of_the_same_cases",
    ),
    Mutant(
        "store/run.py",
        'path.name in (f"{spec}.tmp", "lock")',
        'path.name == "lock"',
        "test_train.py::test_what_was_killed_as_it_began_begins_again",
    ),
    Mutant(
        "defending.py",
        'found[same[-1].text]["worse"] = union(same).low',
        'found[same[-1].text]["worse"] = same[-1].score.low',
        "test_defend_command.py::test_the_worse_of_two_adversaries_is_by_example",
    ),
    Mutant(
        "detecting.py",
        "(again := shared(clean.x, examples.x)).any()",
        "(again := shared(clean.x, examples.x)).all()",
        "test_detectors.py::test_what_cannot_be_is_said_and_nothing_written",
    ),
    Mutant(
        "cli/options.py",
        'not left[0].startswith("--")',
        'not left[0].startswith("-")',
        "test_cli.py::test_options_of_an_attack_or_recipe_are_read_in_every_spelling",
    ),
    Mutant(
        "study/directions.py",
        "(up & even & ~self.flat)",
        "(up & even)",
        "test_study_pictures.py::test_a_steady_rise_has_a_gradient_and_falls_nowhere",
    ),
    Mutant(
        "study/directions.py",
        "(up & even & ~self.flat)",
        "(even & ~self.flat)",
        "test_study_pictures.py::test_a_steady_rise_has_a_gradient_and_falls_nowhere",
    ),
    Mutant(
        "study/evidence.py",
        "least(first) - most(second), most(first) - least(second)",
        "least(first) - least(second), most(first) - most(second)",
        "test_study_pictures.py::test_the_interval_of_a_paired_difference_is_exact",
    ),
    Mutant(
        "study/evidence.py",
        "n, risk / 4)",
        "n, risk)",
        "test_study_pictures.py::test_the_interval_of_a_paired_difference_is_exact",
    ),
    Mutant("study/optimizers.py", "LEVEL / len(pairs))", "LEVEL)", "test_study_pictures.py::test_alike_needs_narrow_differences"),
    Mutant(
        "study/regions.py",
        "total[row] += above - below",
        "total[row] = above - below",
        "test_study_pictures.py::test_an_example_on_many_planes_is_one_example",
    ),
    Mutant("study/difficulty.py", "True if room <= RISE else None", "True", "test_study.py::test_claims"),
    Mutant(
        "study/difficulty.py",
        "two.interval[1] - one.interval[0] for",
        "two.interval[0] - one.interval[1] for",
        "test_study.py::test_claims",
    ),
    Mutant(
        "study/ways.py",
        "interval(differences, 1 / examples)",
        "interval(differences)",
        "test_study_training.py::test_claims_are_decided_by_the_interval_over_seeds",
    ),
]
