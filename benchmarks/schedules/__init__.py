"""Pictures of the learning rate schedules."""
