"""Linear operators on plain tensors: forward, adjoint, Gram, composition. Autograd goes through all of them."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor


class LinearOp(ABC):
    """A linear map ``A`` of tensors with its adjoint, ``<A x, y> = <x, Aᴴ y>``.

    >>> import torch
    >>> class Double(LinearOp):
    ...     def forward(self, x): return 2 * x
    ...     def adjoint(self, y): return 2 * y
    >>> a = Double()
    >>> (a @ a.H)(torch.ones(1)).item(), a.gram(torch.ones(1)).item()
    (4.0, 4.0)
    """

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """``A x``."""

    @abstractmethod
    def adjoint(self, y: Tensor) -> Tensor:
        """``Aᴴ y``."""

    def gram(self, x: Tensor) -> Tensor:
        """``Aᴴ A x``; operators that know a shorter way override it."""
        return self.adjoint(self.forward(x))

    def __call__(self, x: Tensor) -> Tensor:
        return self.forward(x)

    @property
    def H(self) -> LinearOp:
        """The adjoint as an operator."""
        return _Adjoint(self)

    def __matmul__(self, first: LinearOp) -> LinearOp:
        """``(A @ B)(x) = A(B(x))``."""
        return _Composed(self, first)


class _Adjoint(LinearOp):
    def __init__(self, of: LinearOp):
        self.of = of

    def forward(self, x: Tensor) -> Tensor:
        return self.of.adjoint(x)

    def adjoint(self, y: Tensor) -> Tensor:
        return self.of.forward(y)

    @property
    def H(self) -> LinearOp:
        return self.of


class _Composed(LinearOp):
    def __init__(self, last: LinearOp, first: LinearOp):
        self.last, self.first = last, first

    def forward(self, x: Tensor) -> Tensor:
        return self.last.forward(self.first.forward(x))

    def adjoint(self, y: Tensor) -> Tensor:
        return self.first.adjoint(self.last.adjoint(y))

    def gram(self, x: Tensor) -> Tensor:
        return self.first.adjoint(self.last.gram(self.first.forward(x)))
