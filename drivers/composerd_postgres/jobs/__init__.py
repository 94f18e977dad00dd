"""What the driver does with jobs and attempts. What happens to a job is decided in `composerd.driver.transitions`."""
