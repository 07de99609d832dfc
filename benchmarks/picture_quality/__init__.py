"""The quality of our decode() against a full decode and an antialiased resize in float."""
