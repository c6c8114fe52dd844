/**
 * True in `npm run test:long`. A test that asks does all of its cases or more rounds there, and in `npm test` a few of each kind.
 * scripts/test.js runs every file that imports this one in both, and says at the end of `npm test` which they are.
 */
export const long = process.env.LORAFUSE_TEST_LONG === '1'

/** For the options of a test, or of several, that another one covers in short: `describe('…', onlyLong, () => …)`. */
export const onlyLong = { skip: long ? false : 'npm run test:long' }
