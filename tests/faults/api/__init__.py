"""An API that fails, lies, is late, or says odd things."""
