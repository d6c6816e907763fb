"""What is asked and what is true: samples, boxes, images, the synthetic world, and the readers of people's files."""
