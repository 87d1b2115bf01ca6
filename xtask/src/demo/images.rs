//! The demo's two images: the news producer, and a real ActiveMQ.
//!
//! ActiveMQ is pulled where a registry answers. Elsewhere its equivalent is put together from Debian's packages, with the STOMP connector
//! that Debian's own configuration lacks; Debian ships no web console, so a page on its port says that it is only a stand-in.

use std::fs;

use anyhow::{Context, Result};

use super::Setting;
use super::rootfs::{self, Rootfs};
use crate::command::{output, program, run, target};

pub const ACTIVEMQ: &str = "apache/activemq-classic:6.1.7";
pub const NEWSPRODUCER: &str = "localhost/newsproducer:0.1.0";

/// Java's packages by preference: releases of Debian and Ubuntu differ in which they have.
const JAVA: &[&str] = &["openjdk-17-jre-headless", "openjdk-21-jre-headless", "openjdk-25-jre-headless"];

/// What the broker needs at run time, of the 198 packages that installing it would bring.
const BROKER: &[&str] = &[
    "activemq",
    "busybox-static",
    "java-common",
    "libactivemq-java",
    "libactivemq-protobuf-java",
    "libc6",
    "libcommons-logging-java",
    "libcommons-net-java",
    "libcommons-pool2-java",
    "libgcc-s1",
    "libgeronimo-annotation-1.3-spec-java",
    "libgeronimo-j2ee-connector-1.5-spec-java",
    "libgeronimo-j2ee-management-1.1-spec-java",
    "libgeronimo-jms-1.1-spec-java",
    "libgeronimo-jta-1.2-spec-java",
    "libhawtbuf-java",
    "libjackson2-annotations-java",
    "libjackson2-core-java",
    "libjackson2-databind-java",
    "libslf4j-java",
    "libspring-aop-java",
    "libspring-beans-java",
    "libspring-context-java",
    "libspring-core-java",
    "libspring-expression-java",
    "libstdc++6",
    "libxbean-java",
    "zlib1g",
];

/// Jars outside the broker's own folder, each by its name without version.
const JARS: &[&str] = &[
    "lib/optional/activemq-spring",
    "lib/optional/xbean-spring",
    "lib/optional/spring3-core",
    "lib/optional/spring3-beans",
    "lib/optional/spring3-context",
    "lib/optional/spring3-aop",
    "lib/optional/spring3-expression",
    "lib/optional/commons-pool2",
    "lib/optional/commons-net",
    "../java/commons-logging",
    "../java/slf4j-simple",
];

const CONFIGURATION: &str = r#"<beans xmlns="http://www.springframework.org/schema/beans"
       xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"
       xsi:schemaLocation="http://www.springframework.org/schema/beans http://www.springframework.org/schema/beans/spring-beans.xsd
         http://activemq.apache.org/schema/core http://activemq.apache.org/schema/core/activemq-core.xsd">
  <broker xmlns="http://activemq.apache.org/schema/core" brokerName="news" useJmx="false" persistent="false" dataDirectory="/tmp/activemq">
    <transportConnectors>
      <transportConnector name="openwire" uri="tcp://0.0.0.0:61616"/>
      <transportConnector name="stomp" uri="stomp://0.0.0.0:61613"/>
    </transportConnectors>
  </broker>
</beans>
"#;

const PAGE: &str = "<!doctype html><title>ActiveMQ</title><h1>A stand-in for the ActiveMQ console</h1>
<p>The broker beside this page is a real ActiveMQ from Debian's packages, which come without the web console. With the image
<code>apache/activemq-classic</code> the console is here.</p>\n";

/// Puts both images into the instance's store, unless they are there.
pub fn ensure(setting: &Setting) -> Result<()> {
    newsproducer(setting)?;
    if has(setting, ACTIVEMQ)? {
        return Ok(());
    }
    println!("pulling {ACTIVEMQ}");
    let mut pull = program(&setting.portolan, &["image", "pull", ACTIVEMQ, "--data-dir"]);
    match output(pull.arg(&setting.data_dir)) {
        Ok(_) => Ok(()),
        Err(error) => {
            let cause = error.to_string();
            println!("  no registry answers ({})", cause.lines().last().unwrap_or_default().trim());
            println!("  putting an equivalent together from Debian's packages");
            activemq(setting)
        }
    }
}

fn has(setting: &Setting, image: &str) -> Result<bool> {
    let mut list = program(&setting.portolan, &["image", "ls", "--data-dir"]);
    let listed = output(list.arg(&setting.data_dir))?;
    let (name, tag) = image.rsplit_once(':').unwrap_or((image, "latest"));
    Ok(listed.lines().any(|line| {
        let mut words = line.split_whitespace();
        words.next().is_some_and(|first| first.ends_with(name)) && words.next() == Some(tag)
    }))
}

fn newsproducer(setting: &Setting) -> Result<()> {
    println!("building image {NEWSPRODUCER}");
    let root = Rootfs::new(&target().join("demo/newsproducer"), &["libc6", "libgcc-s1", "libc-bin", "busybox-static"])?;
    fs::copy(&setting.newsproducer, root.path("usr/bin/newsproducer"))?;
    import(setting, &root, NEWSPRODUCER, "/usr/bin/newsproducer", "1000")
}

fn activemq(setting: &Setting) -> Result<()> {
    let java = rootfs::first_available(JAVA)?;
    let packages: Vec<&str> = BROKER.iter().copied().chain([java]).collect();
    let root = Rootfs::new(&target().join("demo/activemq"), &packages)?;
    let home = fs::read_dir(root.path("usr/lib/jvm"))?.flatten().find(|entry| entry.path().join("bin/java").exists());
    let home = home.context("the Java package holds no bin/java")?.file_name();
    fs::create_dir_all(root.path("opt/activemq/www"))?;
    fs::write(root.path("opt/activemq/activemq.xml"), CONFIGURATION)?;
    fs::write(root.path("opt/activemq/www/index.html"), PAGE)?;
    let jars: Vec<String> = JARS.iter().map(|jar| format!("/usr/share/activemq/{jar}.jar")).collect();
    let script = format!(
        "#!/bin/sh\nbusybox httpd -p 8161 -h /opt/activemq/www\n\
         exec /usr/lib/jvm/{}/bin/java -cp '/usr/share/activemq/lib/*:{}' -Dactivemq.home=/usr/share/activemq \
         -Dactivemq.base=/tmp/activemq org.apache.activemq.console.Main start xbean:file:/opt/activemq/activemq.xml\n",
        home.to_string_lossy(),
        jars.join(":")
    );
    let entrypoint = root.path("opt/activemq/run");
    fs::write(&entrypoint, script)?;
    run(program("chmod", &["755"]).arg(&entrypoint))?;
    import(setting, &root, ACTIVEMQ, "/opt/activemq/run", "1000")
}

fn import(setting: &Setting, root: &Rootfs, name: &str, entrypoint: &str, user: &str) -> Result<()> {
    let mut import = program(&setting.portolan, &["image", "import", "--name", name]);
    import.args(["--entrypoint", entrypoint, "--user", user, "--data-dir"]).arg(&setting.data_dir);
    run(import.arg(root.path("")))
}
