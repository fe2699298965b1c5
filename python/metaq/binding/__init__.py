"""Between a model and a method: which parameters a method gets, in what form, and when it acts on them."""
