#!/usr/bin/env node
import { commands } from './commands.js'
import { main } from './main.js'

await main(commands, process.argv.slice(2))
