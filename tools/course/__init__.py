"""What a course needs, made from the chapters: editions, assignments, slides."""
