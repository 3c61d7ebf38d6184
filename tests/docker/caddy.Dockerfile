# Stands in for caddy:2 where no image registry can be reached.
FROM debian:trixie-slim
RUN apt-get update && apt-get install -y --no-install-recommends caddy wget
ENV XDG_CONFIG_HOME=/config XDG_DATA_HOME=/data
CMD ["caddy", "run", "--config", "/etc/caddy/Caddyfile", "--adapter", "caddyfile"]
