"""The images and the services of docker-compose.yml, built and run by a Docker Engine: `make test-containers`."""
