"""What people look at: live views, and what is asked for once, in words."""
