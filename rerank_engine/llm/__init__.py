"""Language models as re-rankers: prompts, their answers read as orders, and in which groups a list is shown. `rr.Listwise` is the stage."""
