"""The dashboard and dlt's own, as who looks at them in a browser finds them."""
