#!/usr/bin/env node
// prebuildify calls node-gyp with its arguments; our build takes none of them.
process.argv.splice(2)
await import('./build-native.js')
