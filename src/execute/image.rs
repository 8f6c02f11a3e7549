//! Images: built unless they are there, and removed.

use std::sync::Arc;

use super::HostChange;
use crate::name::ImageTag;
use crate::resource::ImageSpec;

impl HostChange {
    pub(super) async fn build_image(&self, image: &ImageSpec) -> Result<(), String> {
        let runtime = self.runtimes.with_images().map_err(|error| error.to_string())?;
        let instance = self.instance().await?;
        let instance = instance.ok_or("this project has no identity yet")?;
        if runtime.has_image(Some(&instance), image).await.map_err(|error| error.to_string())? {
            return Ok(());
        }
        if let ImageSpec::Named { reference } = image {
            return Err(format!("there is no image {reference}: `docker pull {reference}`"));
        }
        let source = self.tools.binary.as_ref().ok_or("there is no binary to build it around")?;
        let lines = self.tools.lines.clone().unwrap_or_else(|| Arc::new(|_: &str| {}));
        let binary = source(image, Arc::clone(&lines)).await?;
        runtime
            .build_image(&instance, image, binary, &*lines)
            .await
            .map_err(|error| error.to_string())
    }

    pub(super) async fn remove_image(&self, tag: &ImageTag) -> Result<(), String> {
        let Ok(runtime) = self.runtimes.with_images() else { return Ok(()) };
        let Some(instance) = self.instance().await? else { return Ok(()) };
        runtime.remove_image(&instance, tag).await.map_err(|error| error.to_string())
    }
}
