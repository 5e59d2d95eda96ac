"""Learning on the fly: frames of a committee's dynamics, computed by a reference, fitted to, in rounds."""
