import { hasGpu } from './emulated.js'

if (hasGpu()) await import('../train/families.test.js')
