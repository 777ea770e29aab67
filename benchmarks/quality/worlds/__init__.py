"""What the experiments are made on: kinds of data, and the bases and fine-tuned models of each."""
