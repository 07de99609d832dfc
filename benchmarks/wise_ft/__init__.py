"""Fine-tuning for new pictures, and the line back to the model before it."""
