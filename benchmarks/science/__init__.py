"""What the science costs: diff, compose and compare on synthetic models, and what they are measured on."""
