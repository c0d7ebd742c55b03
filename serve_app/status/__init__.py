"""What somebody on call wants to know of a running Gatehouse, on one screen."""
