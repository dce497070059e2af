"""Does a record say what its own files say? Any record of the challenge, read within bounds: `verify.verify_folder`."""
