"""What people read of results, made from results: tables, pictures, layer reports. No result depends on it."""
