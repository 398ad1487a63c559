"""Image files in and out, images of other libraries, and where bundles and volumes lie."""
