// The error classes of Cube's gateway that a hook may throw to choose the status of the answer.
class CubejsHandlerError extends Error {
  constructor(status, type, message) {
    super(message || type);
    this.name = 'CubejsHandlerError';
    this.status = status;
    this.type = type;
    this.isCubejsHandlerError = true;
  }
}

class UserError extends CubejsHandlerError {
  constructor(message) {
    super(400, 'User Error', message);
    this.name = 'UserError';
  }
}

module.exports = { CubejsHandlerError, UserError };
