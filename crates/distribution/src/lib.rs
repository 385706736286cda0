//! Pull from and push to OCI and Docker registries.
