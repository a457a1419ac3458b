"""The CPU's own path: a whole encoder in one call of compiled code, for processors with AVX-512."""
