//! ConfigMaps to values, and `resolve`: cluster settings plus a revision's annotations to what the engine is asked.
