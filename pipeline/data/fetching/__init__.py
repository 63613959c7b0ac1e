"""Where CIFAR-100 can be had (`sources`), and fetching it, resumed and verified (`download`)."""
