"""Ridge least squares from Gram matrices: rows in, a correction of the weights out."""

from __future__ import annotations

import torch

__all__ = ["ResidualFit"]


class ResidualFit:
    """Sums from which the correction of a linear layer, per group, follows in closed form.

    For rows `x` of its input and the residual `r = target - output` there, the correction `D` minimises
    `|r - x D|^2 + lam |D|^2`: it fits what is missing and stays close to the weights the layer has, also in
    directions that its input never takes. Memory does not grow with the number of rows.
    """

    def __init__(self) -> None:
        self.rows = 0
        self.gram: torch.Tensor | None = None
        self.cross: torch.Tensor | None = None
        self.residual_energy = 0.0
        self.target_energy = 0.0

    def add(self, x: torch.Tensor, residual: torch.Tensor, target: torch.Tensor) -> None:
        """Add rows.

        Args:
            x: (groups, rows, inputs), float32 or float64.
            residual: (groups, rows, outputs).
            target: Likewise.
        """
        gram, cross = x.mT @ x, x.mT @ residual
        if self.gram is None:
            # Not every accelerator has float64; sums over many batches need it, the product of one does not.
            device = "cpu" if x.device.type == "mps" else x.device
            self.gram = torch.zeros(gram.shape, dtype=torch.float64, device=device)
            self.cross = torch.zeros(cross.shape, dtype=torch.float64, device=device)
        self.gram += gram.to(self.gram.device)
        self.cross += cross.to(self.gram.device)
        self.residual_energy += _energy(residual)
        self.target_energy += _energy(target)
        self.rows += x.shape[1]

    def solve(self, ridge: float, free: int = 0) -> torch.Tensor:
        """The correction (groups, inputs, outputs), float64.

        Args:
            ridge: `lam` as a share of the mean diagonal entry of the Gram matrix; raised tenfold, as often as need be,
                where rounding leaves a system without a solution.
            free: The last inputs that are not penalised; a column of ones, for a bias.
        """
        inputs = self.gram.shape[-1] - free
        diagonal = self.gram.diagonal(dim1=-2, dim2=-1)
        lam = ridge * diagonal[:, :inputs].mean(dim=-1, keepdim=True)
        # A group whose input is all zeros has nothing to correct; its system must be solvable nevertheless.
        penalty = torch.where(lam > 0, lam, 1.0).expand(-1, inputs)
        penalty = torch.cat([penalty, torch.zeros_like(diagonal[:, inputs:])], dim=1)
        factor, failed = torch.linalg.cholesky_ex(self.gram + torch.diag_embed(penalty))
        if failed.any():
            return self.solve(10 * ridge, free)
        return torch.cholesky_solve(self.cross, factor)

    def relative_error(self, correction: torch.Tensor | None = None) -> float:
        """`|residual - x correction| / |target|` over the rows added; without a correction, `|residual| / |target|`."""
        energy = self.residual_energy
        if correction is not None:
            moved = correction.to(self.gram.device)
            energy -= 2 * (moved * self.cross).sum().item()
            energy += (moved * (self.gram @ moved)).sum().item()
        if self.target_energy == 0:
            return 0.0 if energy <= 0 else float("inf")
        return (max(energy, 0.0) / self.target_energy) ** 0.5


def _energy(x: torch.Tensor) -> float:
    return x.square().sum(dim=(-2, -1)).cpu().double().sum().item()
