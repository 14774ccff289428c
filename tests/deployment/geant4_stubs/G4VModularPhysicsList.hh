#pragma once
class G4VPhysicsConstructor {
public:
    virtual ~G4VPhysicsConstructor() = default;
};
class G4VUserPhysicsList {
public:
    virtual ~G4VUserPhysicsList() = default;
};
class G4VModularPhysicsList : public G4VUserPhysicsList {
public:
    void RegisterPhysics(G4VPhysicsConstructor* physics);
};
