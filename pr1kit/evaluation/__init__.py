"""How good is a policy, how hard is a data set: metrics with intervals, benchmarks, complexity."""
