// Starts fauxqs on the loopback address: its own command line binds all interfaces.
import { pathToFileURL } from "node:url";

const { buildApp } = await import(pathToFileURL(process.argv[2]).href);
const address = await buildApp({ logger: false }).listen({ port: 0, host: "127.0.0.1" });
console.log(`listening on ${address}`);
