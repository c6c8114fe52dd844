// npm's install script: a prebuilt (or earlier built) addon that loads is enough; otherwise it is built here.
import { createRequire } from 'node:module'
import { fileURLToPath } from 'node:url'

const root = fileURLToPath(new URL('..', import.meta.url))

function loads() {
  if (process.env.npm_config_build_from_source === 'true') return false
  try {
    createRequire(import.meta.url)('node-gyp-build')(root)
    return true
  } catch {
    return false
  }
}

if (!loads()) await import('./build-native.js')
