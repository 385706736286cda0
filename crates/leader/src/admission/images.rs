//! Image references become digests when a spec is applied, so that every replica of a revision runs the same bits.

use gantry_model::spec::ServiceSpec;
use gantry_model::{Class, ImageReference, Problem};
use gantry_state::State;

/// Pins `spec`'s image to the digest that its reference means now.
///
/// # Errors
/// When the reference is malformed, or no node of the cluster has such an image.
pub fn pin(state: &State, spec: &mut ServiceSpec, object: &str) -> Result<(), Problem> {
    let image = &spec.container.image;
    let reference: ImageReference = image
        .parse()
        .map_err(|error| Problem::new(Class::Invalid, object, format!("image '{image}': {error}")))?;
    let digest = match reference.digest() {
        Some(digest) => state.image(&digest.to_string()).map(|record| record.digest.clone()),
        None => state.tag(&reference.to_string()).map(|tag| tag.digest.clone()),
    };
    let available = digest.filter(|digest| state.image(digest).is_some_and(|record| !record.nodes.is_empty()));
    let digest = available.ok_or_else(|| {
        Problem::new(Class::NotFound, object, format!("image '{image}' is not in the cluster")).remedy(
            "bring it in with `gantry image pull NAME`, `gantry build -t NAME` or `gantry image load FILE`; `gantry image ls` shows what is there",
        )
    })?;
    spec.container.image_digest = Some(digest);
    Ok(())
}
