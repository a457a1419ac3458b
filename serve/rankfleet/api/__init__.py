"""HTTP in and out: routes, bodies, headers, errors."""
