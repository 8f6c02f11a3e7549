//! Images, as a container engine tells of them.

use super::{Found, HostLook};
use crate::name::InstanceId;
use crate::observed::{Known, Seen};
use crate::project::Project;
use crate::resource::{ImageSpec, ResourceId};

impl HostLook {
    /// Asks the engine whether it has an image.
    pub(super) async fn see_image(&self, image: &ImageSpec) -> Known<Seen> {
        let runtime = match self.runtimes.with_images() {
            Ok(runtime) => runtime,
            Err(error) => return Known::Unknown(error.to_string()),
        };
        let instance = match self.instance().await {
            Ok(instance) => instance,
            Err(why) => return Known::Unknown(why),
        };
        match runtime.has_image(instance.as_ref(), image).await {
            Ok(true) => Known::Is(Seen::Image),
            Ok(false) => Known::Absent,
            Err(error) => Known::Unknown(error.to_string()),
        }
    }

    /// The images that were built for this instance.
    pub(super) async fn find_images(&self) -> Found {
        let (Some(instance), Ok(runtime)) = (self.instance().await?, self.runtimes.with_images())
        else {
            return Ok(Default::default());
        };
        let tags = runtime.images(&instance).await.map_err(|error| error.to_string())?;
        Ok(tags.into_iter().map(|tag| (ResourceId::Image(tag), Known::Is(Seen::Image))).collect())
    }

    /// The instance, if there is one yet.
    pub(super) async fn instance(&self) -> Result<Option<InstanceId>, String> {
        let read = |project: &Project| project.known_instance().map_err(|error| error.to_string());
        self.project.blocking(read).await.map_err(|error| error.to_string())?
    }
}
