# One image for the four services (api, relay, consumer, migrate) and the load generator: they are built together,
# share nearly all their code, and the command chooses which one runs. Needs no BuildKit.
FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
RUN cargo build --locked --release --bins -p api -p relay -p consumer -p sql -p perf \
 && mkdir /out \
 && mv target/release/relayforge-api target/release/relayforge-relay target/release/relayforge-consumer \
       target/release/relayforge-migrate target/release/relayforge-perf /out/

# Nothing is installed here: certificates for TLS are in the binaries, and the health check is a few lines of bash.
FROM debian:bookworm-slim
COPY --from=build /out/ /usr/local/bin/
COPY docker/relayforge-ready /usr/local/bin/
USER 10001:10001
WORKDIR /
EXPOSE 8080 8081 8082
STOPSIGNAL SIGTERM
CMD ["relayforge-api"]
