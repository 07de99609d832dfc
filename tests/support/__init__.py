"""What several tests share: runs, images, settings and processes."""
