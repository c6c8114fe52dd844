#!/usr/bin/env node
import { readFileSync } from 'node:fs'

/** How many files this process may have open; Infinity where that is not known. */
function mostFiles(): number {
  try {
    return Number(/^Max open files +(\d+)/m.exec(readFileSync('/proc/self/limits', 'utf8'))?.[1] ?? Infinity)
  } catch {
    return Infinity
  }
}

// Read while files can still be opened.
const limit = mostFiles()
try {
  const { main } = await import('./main.js')
  const { commands } = await import('./commands.js')
  await main(commands, process.argv.slice(2))
} catch (error) {
  // Node opens the program's own files many at a time, and reports a limit in several ways.
  if (limit > 256) throw error
  const message = `Expected to open more than ${limit} files but that is the limit; raise it with ulimit -n`
  if (process.argv.includes('--json')) console.log(JSON.stringify({ type: 'error', code: 'TOO_MANY_FILES', message }))
  else console.error(`error TOO_MANY_FILES: ${message}`)
  process.exitCode = 1
}
