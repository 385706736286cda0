//! Where the cache of a build comes from and goes to: the values of `--cache-from` and `--cache-to`, as buildx writes them.

use std::str::FromStr;

/// A place for the results of steps that other machines may use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BuildCache {
    /// An image of a registry.
    Registry {
        /// What it is called there.
        reference: String,
        /// Steps of all stages, not only those that the result is made of (`mode=max`).
        all_stages: bool,
    },
    /// The result itself says which steps made it.
    Inline,
}

/// A text that names no such place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' {reason}: write type=registry,ref=REGISTRY/NAME:TAG or type=inline")]
pub struct BuildCacheError {
    text: String,
    reason: String,
}

impl FromStr for BuildCache {
    type Err = BuildCacheError;

    /// A name alone is an image of a registry.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refused = |reason: String| BuildCacheError {
            text: text.to_string(),
            reason,
        };
        if !text.contains('=') {
            return match text {
                "" => Err(refused("names nothing".to_string())),
                "inline" => Ok(Self::Inline),
                name => Ok(Self::registry(name, false)),
            };
        }
        let (mut kind, mut reference, mut all_stages) = ("registry", "", false);
        for field in text.split(',') {
            match field.split_once('=') {
                Some(("type", value)) => kind = value,
                Some(("ref", value)) => reference = value,
                Some(("mode", "max")) => all_stages = true,
                Some(("mode", "min")) => all_stages = false,
                // They say how BuildKit packs layers and documents; the same layers as in the image are used here.
                Some((
                    "oci-mediatypes" | "image-manifest" | "compression" | "compression-level" | "force-compression"
                    | "ignore-error",
                    _,
                )) => {}
                _ => return Err(refused(format!("has the unknown part '{field}'"))),
            }
        }
        match (kind, reference) {
            ("inline", _) => Ok(Self::Inline),
            ("registry", "") => Err(refused("names no image".to_string())),
            ("registry", reference) => Ok(Self::registry(reference, all_stages)),
            (kind, _) => Err(refused(format!("has the type '{kind}', which is not known here"))),
        }
    }
}

impl BuildCache {
    fn registry(reference: &str, all_stages: bool) -> Self {
        Self::Registry {
            reference: reference.to_string(),
            all_stages,
        }
    }

    /// The image's name, where it is one.
    #[must_use]
    pub fn reference(&self) -> Option<&str> {
        match self {
            Self::Registry { reference, .. } => Some(reference),
            Self::Inline => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_as_buildx_writes_them() {
        let registry = |reference: &str, all_stages| BuildCache::registry(reference, all_stages);
        for (text, expected) in [
            ("shop/web:cache", registry("shop/web:cache", false)),
            ("type=registry,ref=r:5000/web", registry("r:5000/web", false)),
            ("ref=r:5000/web,mode=max", registry("r:5000/web", true)),
            ("type=registry,ref=w,mode=min,oci-mediatypes=true", registry("w", false)),
            ("type=inline", BuildCache::Inline),
            ("inline", BuildCache::Inline),
        ] {
            assert_eq!(text.parse(), Ok(expected), "{text}");
        }
        for text in [
            "",
            "type=registry",
            "type=gha,scope=x",
            "type=local,dest=x",
            "type=s3",
            "ref=a,what=b",
        ] {
            let error = text.parse::<BuildCache>().expect_err(text);
            assert!(error.to_string().contains("type=registry,ref="), "{error}");
        }
    }
}
