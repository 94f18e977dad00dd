"""Reading and writing of jobs and attempts. `composerd.driver.transitions` decides what happens to them."""
