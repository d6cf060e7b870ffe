"""retain_posterior against mixtures written out, and against a problem whose every prediction is known exactly."""

import dataclasses

import pytest
import torch
from torch import nn

from erase.methods.retain_posterior import mixture_prediction
from erase.workspace import Batch
from pipelines.diffusion import Noised, draw_noise
from pipelines.embedding import label_table
from pipelines.posterior import PosteriorNetwork

BETAS = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
ABAR = torch.cumprod(1 - BETAS, 0)
SPREAD = 0.6  # standard deviation within a class of the exact problem


def column(values):
    """(B,) as (B, 1, 1, 1)."""
    return values[:, None, None, None]


class ExactProblem:
    """Class c is N(mean_c, SPREAD^2 I); the denoiser under each label is the posterior mean of the noise.

    The null row is the mixture over all ten classes with their priors, by the gradient of its log density.
    """

    def __init__(self) -> None:
        draws = torch.Generator().manual_seed(1)
        self.means = 0.8 * torch.randn(10, 4, 4, 4, generator=draws, dtype=torch.float64)
        self.priors = torch.rand(10, generator=draws, dtype=torch.float64) + 0.2
        self.priors /= self.priors.sum()

    def log_joint(self, noisy, timesteps):
        """log p(x_t, c), (B, 10)."""
        signal, variance = ABAR[timesteps].sqrt(), ABAR[timesteps] * SPREAD**2 + 1 - ABAR[timesteps]
        distance = (noisy[:, None] - signal[:, None, None, None, None] * self.means).square().flatten(2).sum(2)
        return self.priors.log() - distance / (2 * variance[:, None]) - 32 * variance.log()[:, None]

    @torch.enable_grad()
    def noise_without(self, noisy, timesteps, erased=()):
        """E[e | x_t] of a model trained without some classes: -sqrt(1 - abar) grad log p(x_t)."""
        noisy = noisy.double().requires_grad_()
        kept = [index for index in range(10) if index not in erased]
        log_density = self.log_joint(noisy, timesteps)[:, kept].logsumexp(1).sum()
        (score,) = torch.autograd.grad(log_density, noisy)
        return (-column((1 - ABAR[timesteps]).sqrt()) * score).float()

    def predict(self, noisy, timesteps, class_labels):
        """(B, 8, 4, 4): the exact noise prediction under each label, and an arbitrary variance prediction."""
        variance = ABAR[timesteps] * SPREAD**2 + 1 - ABAR[timesteps]
        means = torch.cat([self.means, torch.zeros(1, 4, 4, 4)])[class_labels]
        residual = noisy.double() - column(ABAR[timesteps].sqrt()) * means
        noise = column((1 - ABAR[timesteps]).sqrt() / variance) * residual
        null = column(class_labels == 10)
        noise = torch.where(null, self.noise_without(noisy, timesteps).double(), noise)
        return torch.cat([noise, torch.tanh(noise * 3)], dim=1).float()


class ExactPosterior(nn.Module):
    """Logits of the exact problem; dropping the erased classes is the real network's code."""

    retained = PosteriorNetwork.retained

    def __init__(self, problem) -> None:
        super().__init__()
        self.problem = problem

    def forward(self, noisy, timesteps):
        return self.problem.log_joint(noisy.double(), timesteps).float()


@pytest.fixture
def exact(make_workspace, monkeypatch):
    """``exact((3,))``: a workspace whose frozen model and posterior are exact, and latents noised from all classes."""
    problem = ExactProblem()

    def make(forget_classes=(3,), *, count=64):
        workspace = make_workspace(forget_classes or (3,))
        workspace.forget_classes = forget_classes
        workspace.posterior = ExactPosterior(problem)
        workspace.reference.predict = problem.predict
        draws = torch.Generator().manual_seed(2)
        labels = torch.arange(count) % 10
        x0 = problem.means[labels].float() + SPREAD * torch.randn(count, 4, 4, 4, generator=draws)
        noised = draw_noise(workspace.model.noise_schedule, x0, labels, generator=draws)
        return problem, workspace, noised

    return make


def test_the_mixture_over_all_classes_is_the_null_prediction(exact):
    """The identity that checks a posterior: e*_null = sum_c p(c | x_t) e*(x_t | c)."""
    problem, workspace, noised = exact(())
    mixture, _ = mixture_prediction(workspace, noised)
    null = problem.predict(noised.noisy_latents, noised.timesteps, torch.full((64,), 10)).chunk(2, dim=1)[0]
    torch.testing.assert_close(mixture, null, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("erased", [(3,), (0, 5, 9), tuple(range(9))])
def test_the_mixture_is_the_prediction_of_a_model_without_the_classes(exact, erased):
    problem, workspace, noised = exact(erased)
    mixture, _ = mixture_prediction(workspace, noised)
    expected = problem.noise_without(noised.noisy_latents, noised.timesteps, erased)
    torch.testing.assert_close(mixture, expected, rtol=1e-3, atol=1e-4)
    assert (mixture - problem.noise_without(noised.noisy_latents, noised.timesteps)).abs().max() > 0.1


def test_the_mixture_is_esd_with_a_strength_that_depends_on_the_state(exact):
    """e_r = (e_null - p_f e_f) / (1 - p_f), wherever p_f leaves something to divide by."""
    problem, workspace, noised = exact((3,))
    mixture, _ = mixture_prediction(workspace, noised)
    share = problem.log_joint(noised.noisy_latents.double(), noised.timesteps).softmax(1)[:, 3]
    labels = torch.full((64,), 3)
    null, forget = (
        problem.predict(noised.noisy_latents, noised.timesteps, each)[:, :4] for each in (labels + 7, labels)
    )
    safe = share < 0.9
    expected = (null - column(share) * forget) / (1 - column(share))
    assert ((share > 0.05) & safe).sum() >= 5
    torch.testing.assert_close(mixture[safe], expected[safe].float(), rtol=1e-3, atol=1e-3)


def test_the_mixture_is_the_sum_written_out(make_workspace):
    """The real network: a loop over labels; mean and variance are the moments of a mixture of Gaussians."""
    workspace = make_workspace((3, 8))
    noised = workspace.draw("forget", 0, 0, batch_size=5, label_dropout=0.0).noised
    noise, log_variance = mixture_prediction(workspace, noised)
    logits = workspace.posterior(noised.noisy_latents, noised.timesteps)
    shares = logits[:, [0, 1, 2, 4, 5, 6, 7, 9]].softmax(1)

    noises, variances = [], []
    floor = torch.cat([ABAR.new_ones(1), ABAR[:-1]])
    btilde = BETAS * (1 - floor) / (1 - ABAR)
    btilde[0] = btilde[1]
    for label in workspace.retained_classes:
        e, v = workspace.reference_output(noised, torch.full((5,), label)).chunk(2, dim=1)
        upper, lower = column(BETAS[noised.timesteps].log()), column(btilde[noised.timesteps].log())
        noises.append(e)
        variances.append(((v + 1) / 2 * upper + (1 - v) / 2 * lower).exp())
    e_r = sum(column(shares[:, k]) * noises[k] for k in range(8))
    torch.testing.assert_close(noise, e_r, rtol=1e-4, atol=1e-5)

    # mu_c - mu_r = -beta_t / (sqrt(alpha_t) sqrt(1 - abar_t)) (e_c - e_r)
    t = noised.timesteps
    scale = column(BETAS[t] / ((1 - BETAS[t]).sqrt() * (1 - ABAR[t]).sqrt()))
    s2 = sum(column(shares[:, k]) * (variances[k] + (scale * (noises[k] - e_r)) ** 2) for k in range(8))
    torch.testing.assert_close(log_variance, s2.log().float(), rtol=1e-3, atol=1e-3)


def test_the_variance_is_that_of_samples_of_the_mixture(exact):
    problem, workspace, noised = exact((3,), count=10)
    _, log_variance = mixture_prediction(workspace, noised)
    shares = problem.log_joint(noised.noisy_latents.double(), noised.timesteps).softmax(1)
    shares[:, 3] = 0
    draws, schedule = torch.Generator().manual_seed(3), workspace.model.noise_schedule
    drawn = torch.multinomial(shares, 20_000, replacement=True, generator=draws)  # (10, 20000) labels
    for index in range(10):
        rows = Noised(*(value[index : index + 1].expand(10, *value.shape[1:]) for value in vars(noised).values()))
        e, v = problem.predict(rows.noisy_latents, rows.timesteps, torch.arange(10)).chunk(2, dim=1)
        t = rows.timesteps
        means = (rows.noisy_latents - column(BETAS[t] / (1 - ABAR[t]).sqrt()) * e) / column((1 - BETAS[t]).sqrt())
        deviations = (schedule.model_log_variance(v, t) / 2).exp()
        picked = drawn[index]
        samples = means[picked] + deviations[picked] * torch.randn(20_000, 4, 4, 4, generator=draws)
        torch.testing.assert_close(samples.var(0).log(), log_variance[index].double(), rtol=0, atol=0.08)


def test_drawn_labels_have_the_mixture_as_their_expectation(exact, method_of):
    """Regressing on drawn predictions has the same minimiser as regressing on the sum."""
    method = method_of("retain_posterior", mixture="draw", replacement="posterior")
    _, workspace, noised = exact((3,), count=10)
    mixture, _ = mixture_prediction(workspace, noised)
    targets = torch.stack([method.target(workspace, Batch(noised, seed))[0] for seed in range(1500)])
    error = (targets.mean(0) - mixture).abs() / (targets.std(0) / 1500**0.5).clamp(min=1e-3)
    assert error.max() < 5
    labels = torch.stack([method.drawn_labels(workspace, Batch(noised, seed)) for seed in range(300)])
    assert not (labels == 3).any() and len(labels.unique()) > 4


def kl(mean1, variance1, mean2, variance2):
    """KL(N(mean1, variance1) || N(mean2, variance2)) in bits."""
    nats = (variance2 / variance1).log() / 2 + (variance1 + (mean1 - mean2) ** 2) / (2 * variance2) - 0.5
    return nats / torch.tensor(2.0).log()


@pytest.mark.parametrize("replacement", ["posterior", "class", "nearest"])
def test_the_loss_by_hand(make_workspace, method_of, replacement):
    method = method_of("retain_posterior", replacement=replacement, mixture="sum")
    workspace = make_workspace((3, 4))
    drawn, schedule = method.forget_batch(workspace, 0, 0, 16), workspace.model.noise_schedule
    noised = dataclasses.replace(drawn.noised, timesteps=drawn.noised.timesteps % 30)  # variances far apart
    batch = Batch(noised, drawn.seed)
    workspace.model.transformer.proj_out_2.bias.data += 0.7

    # The target of each row: the mixture, but the replacement's own prediction under an erased label.
    target, log_variance = mixture_prediction(workspace, noised)
    rows = label_table(workspace.reference.transformer).detach()
    distances = {c: {r: (rows[r] - rows[c]).norm() for r in workspace.retained_classes} for c in (3, 4)}
    nearest = {c: min(found, key=found.get) for c, found in distances.items()}
    others = {"class": {3: 5, 4: 5}, "nearest": nearest, "posterior": {}}[replacement]
    for index, label in enumerate(noised.class_labels.tolist()):
        if label in others:
            output = workspace.reference_output(noised, torch.full((16,), others[label]))[index]
            target[index] = output[:4]
            log_variance[index] = schedule.model_log_variance(output[None, 4:], noised.timesteps[index : index + 1])[0]

    output = workspace.model.predict(noised.noisy_latents, noised.timesteps, noised.class_labels)
    scale = column(BETAS / ((1 - BETAS).sqrt() * (1 - ABAR).sqrt()))[noised.timesteps]
    difference = scale * (output[:, :4].detach() - target)
    variance = schedule.model_log_variance(output[:, 4:], noised.timesteps).exp()
    divergence = kl(0, log_variance.exp(), difference, variance).mean()
    backwards = kl(difference, variance, 0, log_variance.exp()).mean()
    expected = (output[:, :4] - target).square().mean() + divergence
    assert divergence > 0.1 * expected and abs(backwards - divergence) > 0.01 * expected
    objective = method.forget_loss(workspace, batch).objective
    torch.testing.assert_close(objective.double(), expected, rtol=1e-4, atol=1e-5)
    weights = list(workspace.model.transformer.parameters())
    for found, wanted in zip(
        torch.autograd.grad(objective, weights), torch.autograd.grad(expected, weights), strict=True
    ):
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-5)


def test_a_perfect_student_has_no_loss(exact, method_of):
    """With one retained class the mixture is that class, and a network that predicts it has loss zero."""
    problem, workspace, noised = exact(tuple(range(9)), count=20)
    batch = Batch(noised.relabelled(torch.full((20,), 10)), 0)
    workspace.model.predict = lambda noisy, t, labels: problem.predict(noisy, t, torch.full_like(labels, 9))
    for mixture in ("sum", "draw"):
        method = method_of("retain_posterior", replacement="posterior", mixture=mixture)
        assert method.forget_loss(workspace, batch).objective.item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(("replacement", "other"), [("class", 5), ("posterior", None)])
def test_one_label_is_drawn_for_each_sample(make_workspace, method_of, replacement, other):
    """Null rows take a draw from the posterior of the retained classes, erased rows their replacement."""
    method, workspace = method_of("retain_posterior", replacement=replacement, mixture="draw"), make_workspace((3, 4))
    batch = method.forget_batch(workspace, 0, 0, 32)
    noised, labels = batch.noised, batch.noised.class_labels
    noise, log_variance = method.target(workspace, batch)
    drawn = method.drawn_labels(workspace, batch)
    assert torch.equal(drawn, method.drawn_labels(workspace, batch))
    assert not torch.isin(drawn, torch.tensor([3, 4, 10])).any()
    if other is not None:
        assert (drawn[labels != 10] == other).all()
    assert len(drawn[labels == 10].unique()) > 2

    output = workspace.reference_output(noised, drawn)
    torch.testing.assert_close(noise, output[:, :4])
    expected = workspace.model.noise_schedule.model_log_variance(output[:, 4:], noised.timesteps)
    torch.testing.assert_close(log_variance, expected)


def test_a_batch_mixes_both_sets_and_both_rows(make_workspace, method_of, toy_latents):
    workspace = make_workspace((3, 8))
    method = method_of("retain_posterior", retain_share=0.25, null_share=0.5)
    batches = [method.forget_batch(workspace, step, 0, 64).noised for step in range(30)]
    near = torch.cdist(batches[0].latents.flatten(1), toy_latents.mean[:, 0].flatten(1)).argmin(1)
    sources = toy_latents.class_labels[near]
    assert torch.isin(sources[:48], torch.tensor([3, 8])).all()  # three quarters from the forget set, in front
    assert not torch.isin(sources[48:], torch.tensor([3, 8])).any() and len(sources[48:].unique()) > 4

    labels = torch.stack([each.class_labels for each in batches])
    assert set(labels.flatten().tolist()) == {3, 8, 10}
    for part in (labels[:, :48], labels[:, 48:]):  # a share of each set trains the null row
        assert (part == 10).float().mean().item() == pytest.approx(0.5, abs=0.08)
        assert (part == 3).float().mean().item() == pytest.approx(0.25, abs=0.08)
    own = labels[0, :48] != 10
    assert torch.equal(labels[0, :48][own], sources[:48][own])  # forget images keep their own label

    none = method_of("retain_posterior", retain_share=0.0, null_share=0.0).forget_batch(workspace, 0, 0, 64).noised
    assert set(none.class_labels.tolist()) == {3, 8}
    assert torch.equal(
        none.latents[:1], workspace.draw("forget", 0, 0, batch_size=64, label_dropout=0).noised.latents[:1]
    )


def test_a_batch_is_the_same_whatever_else_is_drawn(make_workspace, method_of):
    method, workspace = method_of("retain_posterior"), make_workspace()
    first = method.forget_batch(workspace, 5, 1, 32)
    other = make_workspace(away=False)
    for step in range(3):
        other.draw("retain", step, 0, batch_size=7, label_dropout=0.1)
        method.forget_loss(other, method.forget_batch(other, step, 0, 16))
    for options in ({}, {"mixture": "sum"}, {"replacement": "nearest"}, {"retain_label_dropout": 0.5}):
        again = method_of("retain_posterior", **options).forget_batch(other, 5, 1, 32)
        assert again.seed == first.seed
        pairs = zip(vars(first.noised).values(), vars(again.noised).values(), strict=True)
        assert all(torch.equal(one, two) for one, two in pairs)

    # Its retained images are not those of the retain phases of the same step.
    for phase in range(3):
        phase_batch = workspace.draw("retain", 5, phase, batch_size=8, label_dropout=0.0)
        assert not torch.equal(phase_batch.noised.noise, first.noised.noise[24:])
    assert not torch.equal(method.forget_batch(workspace, 5, 0, 32).noised.noise[24:], first.noised.noise[24:])
