import { createRequire } from 'node:module'

/** This package's version. */
export function version(): string {
  return (createRequire(import.meta.url)('../../package.json') as { version: string }).version
}
