import torch
from torch import nn

from robomimic_frozen.policies.flow_matching import flow_matching_loss, integrate


class Field(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 2))

    def forward(self, x, times):
        return self.layers(torch.cat([x, times[:, None]], dim=-1))


def test_learns_a_distribution_of_two_modes_and_finds_both():
    torch.manual_seed(0)
    modes = torch.tensor([[2.0, 0.0], [-2.0, 1.0]])
    field = Field()
    optimizer = torch.optim.Adam(field.parameters(), lr=3e-3)
    for _ in range(1500):
        targets = modes[torch.randint(2, (256,))] + 0.1 * torch.randn(256, 2)
        optimizer.zero_grad()
        flow_matching_loss(field, targets).backward()
        optimizer.step()

    with torch.no_grad():
        samples = integrate(field, torch.randn(2000, 2), steps=20)

    distances = torch.cdist(samples, modes)
    assert (distances.min(dim=1).values < 0.7).float().mean() > 0.9
    share = (distances.argmin(dim=1) == 0).float().mean()
    assert 0.4 < share < 0.6


def test_the_velocity_of_a_straight_path_carries_noise_to_its_target_in_any_number_of_steps():
    noise, target = torch.randn(5, 4, 3), torch.randn(5, 4, 3)
    for steps in (1, 3, 10):
        torch.testing.assert_close(integrate(lambda x, times: target - noise, noise, steps), target)


def test_the_loss_of_the_true_velocity_of_a_single_target_is_zero():
    target = torch.tensor([[1.0, -2.0]])
    loss = flow_matching_loss(lambda x, times: (target - x) / (1 - times[:, None]), target.expand(64, 2))
    torch.testing.assert_close(loss, torch.zeros(()), atol=1e-6, rtol=0)


def test_times_passed_to_the_velocity_run_from_zero_towards_one():
    seen = []
    integrate(lambda x, times: seen.append(times[0].item()) or x * 0, torch.zeros(2, 1), steps=4)
    assert seen == [0.0, 0.25, 0.5, 0.75]
