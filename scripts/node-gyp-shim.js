#!/usr/bin/env node
// prebuildify calls node-gyp with its arguments; our build takes none of them: it makes what is shipped.
process.argv.splice(2, Infinity, '--release', '--cuda-architectures', 'all')
await import('./build-native.js')
