"""The settings of a training phase, from its run file and the command line."""
