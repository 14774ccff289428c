"""What models are made of: trained parts that bring their stages, and bases that several of them share."""
