"""What heads are made of: attention, encoder, decoder, starts of motion queries."""
