"""What a tier costs and what it is worth: latency, quality, arrivals. Pure: no Ray, no torch, no clock."""
